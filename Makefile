# make demo             build all; users mapped by PHP, the C library and the command
# make test             all tests
# make test-zts         the PHP module in threads, with a thread-safe PHP that it builds
# make install-library  the C library below PREFIX
# make install-command  the command, its manual pages, timers, and sendmail's feature
# make fuzz             each fuzz target for FUZZ_SECONDS
# make bench            the mapping beside Dovecot's, the update beside a script

CARGO ?= cargo
PHP ?= php
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
DOCDIR ?= $(PREFIX)/share/doc/mailaffinity
UNITDIR ?= /etc/systemd/system
CFDIR ?= /usr/share/sendmail/cf
FUZZ_SECONDS ?= 600

BUILD_PACKAGES = gcc libc6-dev libclang-dev php-cli php-dev
TEST_PACKAGES = g++ m4 binutils valgrind libc6-dbg pkg-config dovecot-core dovecot-imapd \
	dovecot-lmtpd sendmail-bin sendmail-cf tinycdb db5.3-util mandoc perl libffi-platypus-perl \
	php-fpm nginx apache2-bin libapache2-mod-php openssl roundcube-core roundcube-sqlite3 sqlite3

TARGET = target/release
PHP_MODULE = php/target/release/libmailaffinity_php.so
FUZZ_TARGETS = access_map_cdb access_map_hash access_map_text access_source config \
	director mail_servers node_state username_hash users

.PHONY: all demo test squirrelmail test-zts lint committed-header fuzz fuzz-smoke bench build-packages test-packages library php install-library install-command clean

all: library php

# The program loader looks for the SONAME, the linker for the name without a number.
library:
	$(CARGO) build --release
	ln -sf libmailaffinity.so $(TARGET)/libmailaffinity.so.0

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

install-library: library
	install -d $(DESTDIR)$(INCLUDEDIR) $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 644 include/mailaffinity.h $(DESTDIR)$(INCLUDEDIR)
	install -m 644 $(TARGET)/libmailaffinity.a $(DESTDIR)$(LIBDIR)
	install -m 755 $(TARGET)/libmailaffinity.so $(DESTDIR)$(LIBDIR)/libmailaffinity.so.$(VERSION)
	ln -sf libmailaffinity.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libmailaffinity.so.0
	ln -sf libmailaffinity.so.0 $(DESTDIR)$(LIBDIR)/libmailaffinity.so
	sed 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@INCLUDEDIR@|$(INCLUDEDIR)|; s|@VERSION@|$(VERSION)|' \
		dist/mailaffinity.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/mailaffinity.pc

install-command: library
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(DOCDIR) \
		$(DESTDIR)$(UNITDIR) $(DESTDIR)$(CFDIR)/feature $(DESTDIR)/var/lib/mailaffinity
	install -m 755 $(TARGET)/mailaffinity $(TARGET)/hash_user_group $(DESTDIR)$(BINDIR)
	$(TARGET)/mailaffinity manual $(DESTDIR)$(MANDIR)/man1
	install -m 644 dist/sendmail/feature/mailaffinity.m4 $(DESTDIR)$(CFDIR)/feature
	install -m 644 README.md dist/sendmail/cluster.mc $(DESTDIR)$(DOCDIR)
	sed 's|@BINDIR@|$(BINDIR)|' dist/mailaffinity.cron >$(DESTDIR)$(DOCDIR)/mailaffinity.cron
	for unit in update.service update.timer drain.service drain.timer; do \
		sed 's|@BINDIR@|$(BINDIR)|' dist/systemd/mailaffinity-$$unit \
			>$(DESTDIR)$(UNITDIR)/mailaffinity-$$unit || exit 1; \
	done

# By itself: features unify within one build, and the library's symbols would leak.
php:
	$(CARGO) build --release --manifest-path php/Cargo.toml

build-packages:
	dist/install-packages.sh $(BUILD_PACKAGES)

test-packages:
	dist/install-packages.sh $(BUILD_PACKAGES) $(TEST_PACKAGES)

demo: build-packages
	$(MAKE) all
	demo/run.sh $(TARGET) $(CURDIR)/$(PHP_MODULE)

test: test-packages
	$(MAKE) lint
	$(CARGO) test
	$(MAKE) squirrelmail
	$(MAKE) committed-header
	php/run-tests.sh
	$(MAKE) fuzz-smoke
	$(MAKE) all
	PATH=$(CURDIR)/$(TARGET):$$PATH LD_LIBRARY_PATH=$(CURDIR)/$(TARGET) prove -Iperl/lib perl/t
	demo/run.sh $(TARGET) $(CURDIR)/$(PHP_MODULE)

# By itself: it takes minutes to build PHP.
test-zts: test-packages
	dist/install-packages.sh xz-utils
	php/test-zts.sh

# SQUIRRELMAIL names a tree of it, which Debian does not have.
squirrelmail:
	if [ -n "$$SQUIRRELMAIL" ]; then \
		$(CARGO) test --test consumers -- --ignored real_squirrelmail; \
	else \
		echo "SKIPPED: the real SquirrelMail; SQUIRRELMAIL=/path/of/its/tree runs it"; \
	fi

lint:
	for manifest in Cargo.toml php/Cargo.toml fuzz/Cargo.toml; do \
		$(CARGO) fmt --manifest-path $$manifest --check && \
		$(CARGO) clippy --manifest-path $$manifest --all-targets -- -D warnings || exit 1; \
	done
	$(CARGO) clippy --no-default-features --lib -- -D warnings

# A build brings the header up to date, which would hide a stale one in the commit.
# After a change of src/capi, `git add` the header.
committed-header:
	if [ -e .git ] && command -v git >/dev/null; then \
		git -c safe.directory='$(CURDIR)' diff --exit-code include/mailaffinity.h; \
	fi

# Without coverage feedback, which needs a nightly compiler: it replays the corpus
# and tries some inputs, so that a target that no longer builds or holds is noticed.
fuzz-smoke:
	for target in $(FUZZ_TARGETS); do \
		$(CARGO) run --release --manifest-path fuzz/Cargo.toml --bin $$target -- -runs=20000 -max_len=4096 \
			fuzz/corpus/$$target || exit 1; \
	done

fuzz:
	command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/target/corpus/$$target && \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target fuzz/target/corpus/$$target fuzz/corpus/$$target \
			-- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

bench: library
	dist/install-packages.sh gcc libc6-dev dovecot-core perl sendmail-bin
	$(CC) -std=c99 -O2 -Wall -Wextra -Werror -Iinclude -o $(TARGET)/bench benches/mapping.c \
		-L$(TARGET) -Wl,-rpath,$(CURDIR)/$(TARGET) -lmailaffinity -ldl
	$(TARGET)/bench
	$(CC) -std=gnu99 -O2 -Wall -Wextra -Werror -o $(TARGET)/bench-update benches/update.c
	rm -rf $(TARGET)/bench-update.d && mkdir $(TARGET)/bench-update.d
	$(TARGET)/bench-update $(TARGET)/mailaffinity benches/plain_update.pl $(CURDIR)/$(TARGET)/bench-update.d

clean:
	rm -rf target php/target fuzz/target
