# make demo             build all; users mapped by PHP, the C library and the command
# make test             all tests
# make director         a Dovecot that has a Director, beside one that has none, for the tests
# make dovecot-2.4      a Debian 13 with Dovecot 2.4, for the tests that start it, as root
# make exim             an Exim that has dlfunc, beside sendmail, for the tests
# make haproxy          a HAProxy that has Lua 5.4, for the tests
# make test-phps        the PHP module in each PHP from 8.1 to 8.5 that can be had (PHP_SOURCES)
# make test-zts         the same in this PHP's version, thread-safe
# make test-cdb         the whole scenario, with sendmails that it builds, whose only maps are cdb
# make install          all of the following below PREFIX; DESTDIR is put before each path
# make install-library  the C library
# make install-command  the commands, their manual pages, systemd's units, and sendmail's feature
# make install-exim     the functions for Exim
# make install-lua      the Lua module, and what Dovecot 2.4 includes to use it
# make install-php      the PHP module
# make install-perl     the Perl module
# make install-doc      the documentation
# make uninstall        remove what make install installs; uninstall-library and so on
# make packages         Debian packages, in target/debian
# make packages-in-clean-root  make and try them in new Debian systems (SUITES), as root
# make lint             formatting, clippy, rustdoc, shellcheck, perlcritic, luacheck, the Rust package
# make deny             licenses, duplicates, sources and advisories of what this depends on
# make semver           what changed of the Rust API since SEMVER_BASELINE, the last release
# make fuzz             each fuzz target for FUZZ_SECONDS
# make faults           a fault at each system call of the commands that write
# make soak             users come by all ways while nodes die, hang and come back (SOAK_SECONDS,
#                       SOAK_SEEDS), as root; a day's worth of probes; a watcher killed hundreds of times
# make bench            the mapping beside OpenSSL and Dovecot, the update beside a script,
#                       lookups in what is published beside those in the map, and, as root, logins,
#                       and how long users of a node that dies are out (FAILOVER_ROUNDS)

CARGO ?= cargo
PHP ?= php
PHP_CONFIG ?= php-config
PERL ?= perl
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
DATADIR ?= $(PREFIX)/share/mailaffinity
DOCDIR ?= $(PREFIX)/share/doc/mailaffinity
UNITDIR ?= $(PREFIX)/lib/systemd/system
CFDIR ?= /usr/share/sendmail/cf
EXIMDIR ?= $(PREFIX)/lib/exim4
# Where Lua looks for modules in C, if it has the same PREFIX, or Debian's LIBDIR; and below /usr/local.
LUADIR ?= $(LIBDIR)/lua/5.4
# Where this PHP looks, wherever PREFIX is: Debian's phpenmod takes it from mods-available.
PHP_EXTENSIONDIR ?= $(shell $(PHP_CONFIG) --extension-dir)
PHP_INIDIR ?= $(abspath $(or $(wildcard $(shell $(PHP_CONFIG) --ini-path)/../mods-available), \
	$(shell $(PHP_CONFIG) --ini-dir), $(error $(PHP_CONFIG) names no folder: install PHP's development files (php-dev), or set PHP_INIDIR)))
# Debian's vendor_perl below /usr, site_perl elsewhere.
PERLDIR ?= $(shell $(PERL) -MConfig -e 'my $$prefix = shift; print $$prefix eq $$Config{vendorprefix} \
	? $$Config{vendorlib} : $$prefix . substr $$Config{sitelib}, length $$Config{siteprefix}' $(PREFIX))
ROUNDCUBEDIR ?= $(PREFIX)/share/roundcube/plugins
FUZZ_SECONDS ?= 600

LINT_PACKAGES = shellcheck libperl-critic-perl lua-check
BUILD_PACKAGES = gcc libc6-dev libclang-dev php-cli php-dev perl
TEST_PACKAGES = g++ m4 binutils valgrind libc6-dbg pkg-config dovecot-core dovecot-imapd \
	dovecot-lmtpd sendmail-bin sendmail-cf tinycdb db5.3-util mandoc libffi-platypus-perl \
	php-fpm php-cgi nginx apache2-bin libapache2-mod-php openssl roundcube-core roundcube-sqlite3 \
	sqlite3 slapd ldap-utils nslcd libnss-ldapd e2fsprogs lua5.4 liblua5.4-dev strace faketime \
	corosync iproute2 bindfs prometheus-node-exporter
# Of Debian 13, in whose Dovecot the Lua module is tested; Postfix is the relay of its submission.
DOVECOT_2_4_PACKAGES = dovecot-core dovecot-imapd dovecot-pop3d dovecot-lmtpd dovecot-managesieved \
	dovecot-submissiond dovecot-auth-lua dovecot-ldap dovecot-sqlite dovecot-pgsql lua5.4 lua-dbi-sqlite3 slapd \
	sqlite3 postfix
PACKAGING_PACKAGES = build-essential debhelper dh-php
# The Debian systems in which the packages are tried.
SUITES ?= bookworm trixie

# Below this folder, whose own path may have a blank, which make would take for two.
TARGET_DIR = $(or $(if $(word 2,$(CARGO_TARGET_DIR)),$(error make cannot use a CARGO_TARGET_DIR with a blank)),$(CARGO_TARGET_DIR),target)
TARGET = $(TARGET_DIR)/release
# Of its own: Cargo would take the library without the C edge for the one with it.
PHP_TARGET_DIR = $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR)/php,php/target)
PHP_TARGET = $(PHP_TARGET_DIR)/release
PHP_MODULE = $(PHP_TARGET)/libmailaffinity_php.so
# By the names of its interface and of its extensions' folder, which tell apart all that a
# module is built for.
PHP_BUILT = $(PHP_TARGET)/.php-$(shell $(PHP_CONFIG) --phpapi 2>/dev/null)$(subst /,-,$(shell $(PHP_CONFIG) --extension-dir 2>/dev/null))
# Likewise.
LUA_TARGET_DIR = $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR)/lua,lua/target)
LUA_BUILT = $(LUA_TARGET_DIR)/release/.lua
FUZZ_TARGETS = access_map_cdb access_map_hash access_map_text access_source aliases c_api config \
	corosync director doveconf mail_servers node_state php sessions username_hash users

.PHONY: all demo test test-as-root director dovecot-2.4 exim haproxy squirrelmail test-phps test-zts test-cdb lint deny semver committed fuzz fuzz-smoke faults soak bench bench-logins bench-failover build-packages test-packages library lua php \
	install install-library install-command install-exim install-lua install-php install-perl install-doc install-roundcube \
	uninstall packages packages-in-clean-root clean

all: library lua php $(TARGET)/exim.so

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

# The program loader looks for the SONAME, the linker for the name without a number.
library:
	$(CARGO) build --locked --release
	ln -sf libmailaffinity.so $(TARGET)/libmailaffinity.so.0
	touch $(TARGET)/.library

lua:
	$(CARGO) build --locked --release -p mailaffinity-lua --target-dir $(LUA_TARGET_DIR)
	touch $(LUA_BUILT)

php:
	$(CARGO) build --locked --release -p mailaffinity-php --target-dir $(PHP_TARGET_DIR)
	rm -f $(PHP_TARGET)/.php-*
	touch $(PHP_BUILT)

# What is installed depends on these: after `make`, `sudo make install` builds nothing as root.
SOURCES = $(shell find Cargo.toml Cargo.lock build.rs src cli -type f)
$(TARGET)/.library: $(SOURCES)
	$(MAKE) library
$(TARGET)/exim.so: dist/exim/mailaffinity.c include/mailaffinity.h $(TARGET)/.library
	$(CC) -std=c99 -O2 -Wall -Wextra -Werror $(CFLAGS) -shared -fPIC -Iinclude -o $@ $< \
		-L$(TARGET) -l:libmailaffinity.so.0 -Wl,-z,relro,-z,now $(LDFLAGS)
$(LUA_BUILT): $(SOURCES) $(shell find lua/Cargo.toml lua/src -type f)
	$(MAKE) lua
$(PHP_BUILT): $(SOURCES) $(shell find php/Cargo.toml php/src -type f)
	$(MAKE) php

install: install-library install-command install-exim install-lua install-php install-perl install-doc

# `install -d` would change the mode of a shared folder that is there.
MAKE_FOLDERS = umask 022 && mkdir -p

# fill FILE,INSTALLED: with the folders and the version in their places.
fill = sed 's|@PREFIX@|$(PREFIX)|; s|@BINDIR@|$(BINDIR)|; s|@LIBDIR@|$(LIBDIR)|; s|@DATADIR@|$(DATADIR)|; \
	s|@INCLUDEDIR@|$(INCLUDEDIR)|; s|@VERSION@|$(VERSION)|' $(1) >$(DESTDIR)$(2) && chmod 644 $(DESTDIR)$(2)

# (cargo-c would do this, but Debian's cannot read the lock file.)
install-library: $(TARGET)/.library
	$(MAKE_FOLDERS) $(DESTDIR)$(INCLUDEDIR) $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 644 include/mailaffinity.h $(DESTDIR)$(INCLUDEDIR)
	install -m 644 $(TARGET)/libmailaffinity.a $(DESTDIR)$(LIBDIR)
	install -m 644 $(TARGET)/libmailaffinity.so $(DESTDIR)$(LIBDIR)/libmailaffinity.so.$(VERSION)
	ln -sf libmailaffinity.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libmailaffinity.so.0
	ln -sf libmailaffinity.so.0 $(DESTDIR)$(LIBDIR)/libmailaffinity.so
	$(call fill,dist/mailaffinity.pc.in,$(LIBDIR)/pkgconfig/mailaffinity.pc)
	if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then /sbin/ldconfig; fi

UNITS = mailaffinity-update.service mailaffinity-update.timer mailaffinity-drain.service mailaffinity-drain.timer \
	mailaffinity-watch.service

install-command: $(TARGET)/.library
	$(MAKE_FOLDERS) $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(DOCDIR)/examples \
		$(DESTDIR)$(UNITDIR) $(DESTDIR)$(CFDIR)/feature $(DESTDIR)/var/lib/mailaffinity
	install -m 755 $(TARGET)/mailaffinity $(TARGET)/hash_user_group $(DESTDIR)$(BINDIR)
	umask 022 && $(TARGET)/mailaffinity manual $(DESTDIR)$(MANDIR)/man1
	install -m 644 dist/sendmail/feature/mailaffinity.m4 $(DESTDIR)$(CFDIR)/feature
	install -m 644 dist/mailaffinity.toml.example dist/sendmail/cluster.mc $(DESTDIR)$(DOCDIR)/examples
	$(call fill,dist/mailaffinity.cron,$(DOCDIR)/examples/mailaffinity.cron)
	for unit in $(UNITS); do $(call fill,dist/systemd/$$unit,$(UNITDIR)/$$unit) || exit 1; done

install-exim: $(TARGET)/exim.so
	$(MAKE_FOLDERS) $(DESTDIR)$(EXIMDIR)
	install -m 644 $(TARGET)/exim.so $(DESTDIR)$(EXIMDIR)/mailaffinity.so

install-lua: $(LUA_BUILT)
	$(MAKE_FOLDERS) $(DESTDIR)$(LUADIR) $(DESTDIR)$(DATADIR)
	install -m 644 $(LUA_TARGET_DIR)/release/libmailaffinity_lua.so $(DESTDIR)$(LUADIR)/mailaffinity.so
	install -m 644 dist/dovecot/dovecot.lua $(DESTDIR)$(DATADIR)
	for file in mailaffinity-node.conf mailaffinity-proxy.conf; do \
		$(call fill,dist/dovecot/$$file,$(DATADIR)/$$file) || exit 1; \
	done

install-php: $(PHP_BUILT)
	$(MAKE_FOLDERS) $(DESTDIR)$(PHP_EXTENSIONDIR) $(DESTDIR)$(PHP_INIDIR)
	install -m 644 $(PHP_MODULE) $(DESTDIR)$(PHP_EXTENSIONDIR)/mailaffinity.so
	[ -e $(DESTDIR)$(PHP_INIDIR)/mailaffinity.ini ] || \
		install -m 644 dist/mailaffinity.ini $(DESTDIR)$(PHP_INIDIR)

install-perl:
	$(MAKE_FOLDERS) $(DESTDIR)$(PERLDIR)/Mail $(DESTDIR)$(MANDIR)/man3 $(DESTDIR)$(DOCDIR)/examples
	install -m 644 perl/lib/Mail/Affinity.pm $(DESTDIR)$(PERLDIR)/Mail
	pod2man --section 3pm --release $(VERSION) --center mailaffinity --name Mail::Affinity \
		perl/lib/Mail/Affinity.pm $(DESTDIR)$(MANDIR)/man3/Mail::Affinity.3pm
	chmod 644 $(DESTDIR)$(MANDIR)/man3/Mail::Affinity.3pm
	install -m 755 perl/construct_qgroups $(DESTDIR)$(DOCDIR)/examples

# Manual pages go where their last letter says.
install-doc:
	$(MAKE_FOLDERS) $(DESTDIR)$(DOCDIR)/doc/pictures
	install -m 644 README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE $(DESTDIR)$(DOCDIR)
	install -m 644 $(wildcard doc/*.md) $(DESTDIR)$(DOCDIR)/doc
	install -m 644 $(wildcard doc/pictures/*.svg) $(DESTDIR)$(DOCDIR)/doc/pictures
	for page in $(wildcard doc/man/*.[1-8]); do \
		install -D -m 644 $$page $(DESTDIR)$(MANDIR)/man$${page##*.}/$${page##*/} || exit 1; \
	done

# For the Debian package: elsewhere Roundcube is where its administrator put it.
install-roundcube:
	$(MAKE_FOLDERS) $(DESTDIR)$(ROUNDCUBEDIR)
	cp -r php/roundcube/mailaffinity $(DESTDIR)$(ROUNDCUBEDIR)

uninstall: uninstall-library uninstall-command uninstall-exim uninstall-lua uninstall-php uninstall-perl uninstall-doc

# The rules for installing know what is installed: they do it once more, elsewhere. Folders
# that are ours alone go when nothing is left in them. An ini file that was edited stays.
uninstall-%:
	installed=$$(mktemp -d) && trap 'rm -rf "$$installed"' EXIT && \
	$(MAKE) --silent install-$* DESTDIR="$$installed" && \
	(cd "$$installed" && find . ! -type d) | while read -r file; do \
		case $$file in *.ini) cmp -s "$$installed/$$file" "$(DESTDIR)$${file#.}" || continue ;; esac; \
		rm -f "$(DESTDIR)$${file#.}" || exit 1; \
	done && \
	(cd "$$installed" && find . -depth -type d -path '*/mailaffinity*') | while read -r folder; do \
		[ ! -d "$(DESTDIR)$${folder#.}" ] || rmdir --ignore-fail-on-non-empty "$(DESTDIR)$${folder#.}" || exit 1; \
	done

DEBIAN = $(if $(word 2,$(CURDIR)),$(error debhelper cannot make packages below a folder with a blank),$(abspath $(TARGET_DIR)/debian))
DEBIAN_SOURCE = $(DEBIAN)/mailaffinity-$(VERSION)

# In a folder of its own, since dpkg-buildpackage writes into the one above. The PHPs are
# those that Debian's development files are there for: each has a package of its own.
packages:
	dist/install-packages.sh $(BUILD_PACKAGES) $(PACKAGING_PACKAGES)
	$(MAKE) library lua $(TARGET)/exim.so
	rm -rf $(DEBIAN)
	mkdir -p $(DEBIAN_SOURCE)
	cp -r dist/debian CHANGELOG.md $(DEBIAN_SOURCE)
	sed "s|@VERSION@|$(VERSION)|; s|@DATE@|$$(date -R -r Cargo.toml)|" \
		dist/debian/changelog >$(DEBIAN_SOURCE)/debian/changelog
	cd $(DEBIAN_SOURCE)/debian && for config in /usr/bin/php-config[0-9]*; do \
		php=php$${config#*php-config} && \
		$(MAKE) -C $(CURDIR) install-php PHP=/usr/bin/$$php PHP_CONFIG=$$config \
			DESTDIR=$(DEBIAN_SOURCE) PHP_EXTENSIONDIR=/$$php PHP_INIDIR=/$$php && \
		for file in phpVERSION-mailaffinity.*; do \
			sed "s|phpVERSION|$$php|; s|VERSION|$${php#php}|" $$file >$$php-$${file#*-} || exit 1; \
		done && \
		cat $$php-mailaffinity.control >>control || exit 1; \
	done
	rm $(DEBIAN_SOURCE)/debian/phpVERSION-*
	cd $(DEBIAN_SOURCE) && MAILAFFINITY=$(CURDIR) dpkg-buildpackage --build=binary --no-sign

packages-in-clean-root:
	dist/install-packages.sh debootstrap iproute2
	for suite in $(SUITES); do tests/packages.sh $$suite || exit 1; done

build-packages:
	dist/install-packages.sh $(BUILD_PACKAGES)

test-packages:
	dist/install-packages.sh $(BUILD_PACKAGES) $(TEST_PACKAGES) $(LINT_PACKAGES)

demo: build-packages
	$(MAKE) all
	demo/run.sh $(TARGET) $(PHP_MODULE)

test: test-packages
	$(MAKE) director exim haproxy
	$(MAKE) lint
	$(MAKE) -j2 all
	$(CARGO) test --locked
	$(MAKE) test-as-root
	$(MAKE) squirrelmail
	php/run-tests.sh
	$(MAKE) fuzz-smoke
	$(MAKE) committed
	PATH="$(abspath $(TARGET)):$$PATH" LD_LIBRARY_PATH="$(abspath $(TARGET))" prove -Iperl/lib perl/t
	PATH="$(abspath $(TARGET)):$$PATH" lua/run-tests.sh
	tests/install.sh
	demo/run.sh $(TARGET) $(PHP_MODULE)

# What only root can do, or be made to do: `cargo test` ignores it. It has machines with Dovecot 2.4.
FOR_ROOT = $(if $(filter 0,$(shell id -u)),dovecot-2.4)

test-as-root: $(FOR_ROOT)
	@if [ "$$(id -u)" = 0 ]; then \
		$(CARGO) test --locked --test update --test watch --test cluster --test director --test dovecot_2_4 --test exim -- --ignored as_root; \
	else \
		echo "SKIPPED: the tests of what only root can do; root's make test-as-root runs them"; \
	fi

# Where Debian has Dovecot 2.4, which has no Director.
director:
	tests/director/fetch.sh "$(abspath $(TARGET_DIR))/dovecot-2.3"

# Made again when it shall have other packages.
dovecot-2.4:
	dist/install-packages.sh debootstrap iproute2
	root="$(abspath $(TARGET_DIR))/dovecot-2.4" && packages="$(DOVECOT_2_4_PACKAGES)" && \
	if [ "$$(cat "$$root/packages" 2>/dev/null)" != "$$packages" ]; then \
		tests/root.sh make trixie "$$root" $$packages && echo "$$packages" >"$$root/packages"; \
	fi

# Installed, it would take sendmail's place.
exim:
	tests/exim/fetch.sh "$(abspath $(TARGET_DIR))/exim"

# Debian 12's has Lua 5.3.
haproxy:
	tests/haproxy/fetch.sh "$(abspath $(TARGET_DIR))/haproxy"

# SQUIRRELMAIL names a tree of it, which Debian does not have.
squirrelmail:
	@if [ -n "$$SQUIRRELMAIL" ]; then \
		$(CARGO) test --locked --test webmail -- --ignored real_squirrelmail; \
	else \
		echo "SKIPPED: the real SquirrelMail; SQUIRRELMAIL=/path/of/its/tree runs it"; \
	fi

# By themselves: it takes minutes to build PHP, and sendmail.
test-phps: test-packages
	dist/install-packages.sh xz-utils debootstrap iproute2
	php/test-phps.sh

test-zts: test-packages
	dist/install-packages.sh xz-utils
	php/test-phps.sh $$($(PHP) -r 'echo PHP_MAJOR_VERSION, ".", PHP_MINOR_VERSION;')-zts

# Both extensions that a cdb map's file can have are what a sendmail is built for.
test-cdb: test-packages
	dist/install-packages.sh make dpkg-dev libcdb-dev
	tests/sendmail/build-cdb.sh $(TARGET_DIR)/sendmail-cdb
	for extension in cdb db; do \
		PATH="$(abspath $(TARGET_DIR))/sendmail-cdb/$$extension:$$PATH" ACCESS_MAP=cdb.$$extension \
			$(CARGO) test --locked --test cluster --test sendmail --test update -- $(CDB_TESTS) || exit 1; \
	done

# By parts of their names.
CDB_TESTS = scenario:: agreement::all_agree agreement::the_map_is kills:: of_a_hash of_the_other_kind mail_lands \
	--skip nul_bytes

# The package is built offline: what it needs was there for clippy.
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked -p mailaffinity --no-default-features --lib -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps -p mailaffinity-cli
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items \
		-p mailaffinity -p mailaffinity-lua -p mailaffinity-php
	$(CARGO) package --locked --offline --quiet --allow-dirty -p mailaffinity
	dist/install-packages.sh $(LINT_PACKAGES)
	shellcheck $(SHELL_SCRIPTS)
	perlcritic --quiet perl benches
	luacheck --quiet --std lua54 lua/tests dist/dovecot

SHELL_SCRIPTS = $(wildcard .ci/run) $(wildcard */*.sh */*/*.sh) $(wildcard dist/debian/*.postrm)

# By itself: building the tool takes minutes, and the advisories come from elsewhere. Where
# they cannot be had: DENY_CHECKS='bans licenses sources'.
DENY_CHECKS ?= all
deny:
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked --workspace check $(DENY_CHECKS)

# By itself, likewise: before a release, whose number has to say what changed.
SEMVER_BASELINE ?= $(shell git describe --tags --abbrev=0 --match 'v*' 2>/dev/null)
semver:
	$(if $(SEMVER_BASELINE),,$(error there is no release to compare with; SEMVER_BASELINE=REVISION names something else))
	command -v cargo-semver-checks >/dev/null || $(CARGO) install --locked cargo-semver-checks
	$(CARGO) semver-checks -p mailaffinity --baseline-rev $(SEMVER_BASELINE)

# The tests bring the header up to date, which would hide a stale one in the commit. After a
# change of src/capi, `git add` it.
committed:
	if [ -e .git ] && command -v git >/dev/null; then \
		git -c safe.directory='$(CURDIR)' diff --exit-code include/mailaffinity.h; \
	fi

# Without coverage feedback, which needs a nightly compiler: it replays the corpus
# and tries some inputs, so that a target that no longer builds or holds is noticed.
fuzz-smoke: $(PHP_BUILT)
	for target in $(FUZZ_TARGETS); do \
		$(CARGO) run --locked -p mailaffinity-fuzz --bin $$target -- -runs=20000 -max_len=4096 fuzz/corpus/$$target || exit 1; \
	done

# The target php runs PHP with the module.
fuzz fuzz-smoke: export MAILAFFINITY_PHP_MODULE = $(PHP_MODULE)

# With LTO, the linker misses counters of the C functions.
fuzz: export CARGO_PROFILE_RELEASE_LTO = off
fuzz: $(PHP_BUILT)
	command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/target/corpus/$$target && \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target fuzz/target/corpus/$$target fuzz/corpus/$$target \
			-- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

# By itself: it takes minutes. A sample of it is among the tests.
faults: test-packages
	$(CARGO) test --locked --test update -- --ignored --nocapture --test-threads=1 faults::all

# By itself, likewise: the clusters take twenty minutes, the probes of a day half an hour.
SOAK_SECONDS ?= 180
SOAK_SEEDS ?= 1 2 3
soak: test-packages $(FOR_ROOT)
	@if [ "$$(id -u)" = 0 ]; then \
		for seed in $(SOAK_SEEDS); do \
			MAILAFFINITY_SOAK_SECONDS=$(SOAK_SECONDS) MAILAFFINITY_SOAK_SEED=$$seed \
				$(CARGO) test --locked --test dovecot_2_4 -- --ignored --nocapture --exact soak::all || exit 1; \
		done; \
		MAILAFFINITY_SOAK_SECONDS=$(SOAK_SECONDS) \
			$(CARGO) test --locked --test dovecot_2_4 -- --ignored --nocapture soak::all_with_a_director || exit 1; \
	else \
		echo "SKIPPED: nodes of Dovecot 2.4 that die under load; root's make soak has them"; \
	fi
	$(CARGO) test --locked --test watch -- --ignored --nocapture kills::hundreds endurance::a_day

bench: library
	dist/install-packages.sh gcc libc6-dev libssl-dev dovecot-core perl sendmail-bin
	$(CC) -std=c99 -O2 -Wall -Wextra -Werror -Iinclude -o $(TARGET)/bench benches/mapping.c \
		-L$(TARGET) -Wl,-rpath,"$(abspath $(TARGET))" -lmailaffinity -lcrypto -ldl
	$(TARGET)/bench
	$(CC) -std=gnu99 -O2 -Wall -Wextra -Werror -o $(TARGET)/bench-update benches/update.c
	rm -rf $(TARGET)/bench-update.d && mkdir $(TARGET)/bench-update.d
	$(TARGET)/bench-update $(TARGET)/mailaffinity benches/plain_update.pl "$(abspath $(TARGET))/bench-update.d"
	$(CARGO) bench --locked --bench lookup
	$(MAKE) bench-logins
	$(MAKE) bench-failover

# Through Dovecot 2.4's proxies, which are machines in namespaces.
bench-logins: $(FOR_ROOT)
	@if [ "$$(id -u)" = 0 ]; then \
		$(CARGO) test --locked --test dovecot_2_4 -- --ignored --nocapture bench::; \
	else \
		echo "SKIPPED: logins through Dovecot 2.4; root's make bench-logins measures them"; \
	fi

# From a node's death on. Not in the tests' own profile: of 100,000 users, the map has to follow.
FAILOVER_ROUNDS ?= 50
bench-failover: $(FOR_ROOT)
	@if [ "$$(id -u)" = 0 ]; then \
		MAILAFFINITY_FAILOVER_ROUNDS=$(FAILOVER_ROUNDS) \
			$(CARGO) test --locked --release --test dovecot_2_4 -- --ignored --nocapture --test-threads=1 soak::failover; \
	else \
		echo "SKIPPED: nodes of Dovecot 2.4 that die; root's make bench-failover measures how long users are out"; \
	fi

clean:
	rm -rf target lua/target php/target fuzz/target
