#!/bin/sh
# Usage: packages.sh SUITE [FOLDER]
#
# Makes the Debian packages of this version, and of a next one, in a new Debian system of
# SUITE (bookworm is Debian 12, trixie 13), runs the tests there that the versions of PHP,
# Lua, Perl and Dovecot matter to, and tries the packages in another: lintian's opinion,
# installing with what Debian has, what each package is for, upgrades, purging,
# doc/walk-through.md, the units, and doc/webmail.md with what `make` built; these three with
# the system's own systemd booted. The systems are made in FOLDER, or in a temporary folder
# that is removed. Needs root, a Debian archive, and Rust as rustup installs it, which builds
# in the new system as it does here.
set -eu

suite=$1
here=$(cd "$(dirname "$0")/.." && pwd)
folder=${2:-}
if [ -z "$folder" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf --one-file-system "$folder"' EXIT
    trap 'exit 1' HUP INT TERM
fi
maker=$folder/maker
root=$folder/root

fail() {
    echo "packages.sh: $*" >&2
    exit 1
}

say() {
    echo "--- $*"
}

say "new Debian systems: $suite"
mkdir -p "$folder"
rm -rf --one-file-system "$maker"
"$here/tests/root.sh" make "$suite" "$root" || fail "no new system"
# The users' domain, which DNS would know.
echo '192.0.2.1 example.org' >>"$root/etc/hosts"
cp -a "$root" "$maker"

# Runs a script (standard input) in a system, which has these folders of this one.
# Usage: in_system SYSTEM [FOLDER...]
in_system() {
    {
        echo "export CARGO_HOME=/build/cargo CARGO_TARGET_DIR=/build/target php=${php:-}"
        # Programs are tried here, and how fast they are is no matter.
        echo "export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16"
        cat
    } | network=${network:-} "$here/tests/root.sh" "${how:-run}" "$@"
}

in_root() {
    in_system "$root" "$@"
}

# With all that is enabled there.
in_booted_root() (
    how=boot
    in_root "$@"
)

# All that there is, but for what apt and dpkg write about what they did, the loader's
# cache, what changes by itself, and phpenmod's folders where they are empty.
snapshot() {
    (
        cd "$root"
        find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./tmp \
            -o -path ./build -o -path ./var/cache/apt -o -path ./var/lib/apt -o -path ./var/log/apt \
            -o -path ./var/log/dpkg.log -o -path ./var/lib/dpkg/available -o -path './var/lib/dpkg/*-old' \
            -o -path ./var/lib/dpkg/lock -o -path ./var/lib/dpkg/lock-frontend \
            -o -path ./var/lib/dpkg/triggers/Lock -o -path ./var/lib/dpkg/status \
            -o -path ./var/cache/ldconfig -o -path ./etc/ld.so.cache \
            -o -path './var/lib/php/modules/*abled_by_*' -type d -empty \
            \) -prune -o \( -type f -printf '%M %U:%G %s %p\n' -o -printf '%M %U:%G %p %l\n' \) | LC_ALL=C sort -k 3
        find ./etc -type f ! -name ld.so.cache -exec sha256sum {} + | LC_ALL=C sort -k 2
    ) >"$1"
}

# What rustup and Cargo have here, so that nothing of that comes from elsewhere. The next
# version is this one by another name, to upgrade to.
say "making the packages"
rust=$(cd "$here" && rustc --print sysroot)
mkdir -p "$maker/build/cargo" "$maker/build/source" "$root/build"
(cd "$here" && "$rust/bin/cargo" vendor --locked "$maker/build/vendor") >"$folder/vendor.toml" 2>"$folder/vendor.log" ||
    { tail "$folder/vendor.log" >&2; fail "cargo vendor failed"; }
sed "s|$maker||" "$folder/vendor.toml" >"$maker/build/cargo/config.toml"
tar -C "$here" --exclude=./target --exclude=./lua/target --exclude=./php/target --exclude=./fuzz/target --exclude=./.git -c . |
    tar -C "$maker/build/source" -x
echo "$rust" >"$maker/build/rust"
in_system "$maker" "$rust" <<'END' >"$folder/make.log" 2>&1 || { tail -n 40 "$folder/make.log" >&2; fail "make packages failed"; }
apt-get install make lintian
PATH=$(cat /build/rust)/bin:$PATH
cd /build/source
make packages
make packages VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml).1" DEBIAN=/build/target/next
END

# Of Debian's rules for an upload: these packages have no maintainer's address and close
# no bugs. Rust's strings do not need glibc's checks.
say "lintian"
in_system "$maker" <<'END'
lintian --version
lintian --allow-root --info --fail-on error,warning,info --suppress-tags \
    bogus-mail-host,bogus-mail-host-in-debian-changelog,initial-upload-closes-no-bugs,hardening-no-fortify-functions \
    /build/target/debian/*.changes
END

# What else the system's versions matter to.
say "PHP's tests, Lua's, Perl's, Dovecot's, and webmail and C programs"
in_system "$maker" "$rust" <<'END'
PATH=$(cat /build/rust)/bin:$PATH
cd /build/source
make test-packages director >/build/packages.log 2>&1 || { tail -n 40 /build/packages.log; exit 1; }
php/run-tests.sh
built=/build/target/release
PATH=$built:$PATH lua/run-tests.sh
PATH=$built:$PATH LD_LIBRARY_PATH=$built prove -Iperl/lib perl/t
cargo test --locked --test dovecot --test webmail
END

say "packages of Debian that these need, and those that the checks need"
mv "$maker/build/target" "$root/build/target"
cp "$here/demo/map.c" "$here/demo/users" "$root/root"
in_root <<'END' >"$folder/apt.log" 2>&1 || { tail -n 40 "$folder/apt.log" >&2; fail "apt-get failed"; }
apt-get install gcc libc6-dev lua5.4 pkg-config php-cli sendmail-bin sendmail-cf sensible-mda systemd-sysv iproute2 apt-utils
# apt's own word on the dependencies.
needed=$(apt-get --simulate install /build/target/debian/*.deb |
    sed -n '/mailaffinity\|mail-affinity/d; s/^Inst \([^ ]*\).*/\1/p')
[ -z "$needed" ] || apt-get install $needed
# For doc/webmail.md, which installs them later; its nodes, and what it takes for granted.
apt-get --download-only install apache2 libapache2-mod-php php-cli roundcube-core roundcube-sqlite3 \
    dovecot-imapd openssl curl make perl php-dev
END
# As in 8.2: packages and folders are named by it.
php=$(in_root <<'END'
php -r 'echo PHP_MAJOR_VERSION, ".", PHP_MINOR_VERSION;'
END
)
# From here on nothing may come from elsewhere, and no port is taken from this machine.
network=--net
# The first boot leaves something.
echo 'systemctl --version' | in_booted_root
snapshot "$folder/before"

say "installing, and what each package is for"
in_root <<'END'
apt-get -qq install /build/target/debian/*.deb >/dev/null
cd /root

mailaffinity --version
hash_user_group --vnodes 3 anna
for page in man1/mailaffinity.1 man1/mailaffinity-update.1 man1/hash_user_group.1 man5/mailaffinity.toml.5 \
    man3/libmailaffinity.3 man3/lua-mailaffinity.3 man3/map_user_via_sendmail_access.3 man3/Mail::Affinity.3pm; do
    gunzip --test /usr/share/man/$page.gz
done

# The configuration that the package shows, with nodes that are not asked.
sed '/^\[checks\]/d; /^probe/d; s|/etc/mail/access|/root/map/access|
    s|^#file = .*|file = "/root/map/users"|' \
    /usr/share/doc/mailaffinity/examples/mailaffinity.toml.example >/etc/mailaffinity.toml
mkdir /root/map
printf '%s\n' anna bert carla dieter >/root/map/users
touch /root/map/access
mailaffinity down node2 --reason 'new disks'
mailaffinity update
grep 'QGRP:dieter@.*node1group' /root/map/access
test -e /var/lib/mailaffinity/nodes.toml
test -e /var/lib/mailaffinity/status.json

# C, Lua, PHP and Perl say what the command says.
mailaffinity map </root/users | cut -f 3 >by_command
test -s by_command
cc -std=c99 -o shared map.c $(pkg-config --cflags --libs mailaffinity)
./shared /etc/mailaffinity.toml <users | diff by_command -
cc -std=c99 -o static map.c \
    $(pkg-config --cflags --libs --static mailaffinity | sed s/-lmailaffinity/-l:libmailaffinity.a/)
./static /etc/mailaffinity.toml <users | diff by_command -
lua5.4 -e 'for user in io.lines("users") do print(require "mailaffinity".node(user).host) end' |
    diff by_command -
php -m | grep -x mailaffinity
php -r 'foreach (file("users") as $user) echo mailaffinity_node(rtrim($user, "\n"))["host"], "\n";' |
    diff by_command -
php -r 'echo map_user_via_sendmail_access("dieter"), "\n";' | grep -x node1.example.org
php -l /var/lib/roundcube/plugins/mailaffinity/mailaffinity.php
perl -MMail::Affinity -e 'print "Perl: libmailaffinity ", Mail::Affinity::library_version(), "\n"'

# Nothing is started or enabled; the units are sound.
test "$(systemctl is-enabled mailaffinity-update.timer mailaffinity-drain.timer mailaffinity-watch.service | sort -u)" = disabled
for unit in update.service update.timer drain.service drain.timer watch.service; do
    systemd-analyze verify --man=no /usr/lib/systemd/system/mailaffinity-$unit
done
END

say "the same version again, the next one, and back after removal"
in_root <<'END'
# What the administrator has decided.
systemctl --quiet enable mailaffinity-update.timer
phpdismod mailaffinity
sed -i 's/^;mailaffinity.fallback=.*/mailaffinity.fallback=192.0.2.9/' /etc/php/$php/mods-available/mailaffinity.ini

holds() {
    test "$(systemctl is-enabled mailaffinity-update.timer)" = enabled
    test "$(systemctl is-enabled mailaffinity-drain.timer)" = disabled
    test "$(php -m | grep -c mailaffinity)" = 0
    grep -qx mailaffinity.fallback=192.0.2.9 /etc/php/$php/mods-available/mailaffinity.ini
    mailaffinity nodes | grep -q '^node2 *down.*new disks'
}
holds
apt-get -qq install --reinstall /build/target/debian/*.deb >/dev/null
holds
apt-get -qq install /build/target/next/*.deb >/dev/null
dpkg-query --show '*mailaffinity*' '*mail-affinity*'
test "$(dpkg-query --show --showformat='${Version}\n' mailaffinity "php$php-mailaffinity" | sort -u)" = \
    "$(dpkg-deb --field /build/target/next/mailaffinity_*.deb Version)"
holds

# A module that is loaded stays so over an upgrade.
phpenmod mailaffinity
apt-get -qq install --reinstall /build/target/next/*.deb >/dev/null
php -m | grep -x mailaffinity
php -r 'echo ini_get("mailaffinity.fallback"), "\n";' | grep -x 192.0.2.9

apt-get -qq remove mailaffinity "php$php-mailaffinity" >/dev/null
test -e /var/lib/mailaffinity/nodes.toml
test "$(php -m 2>&1 | grep -c mailaffinity)" = 0
apt-get -qq install /build/target/next/*.deb >/dev/null
mailaffinity nodes | grep -q '^node2 *down.*new disks'
php -m | grep -x mailaffinity
END

# All of ours, and nothing else.
purge() {
    in_root <<'END'
apt-get -qq purge $(dpkg-query --show --showformat='${Package}\n' '*mailaffinity*' '*mail-affinity*' 2>/dev/null) >/dev/null
END
}

say "purging: nothing is left but the administrator's"
purge
in_root <<'END'
rm -r /etc/mailaffinity.toml /root/map /root/by_command /root/shared /root/static
END
snapshot "$folder/after"
diff "$folder/before" "$folder/after" || fail "purging left the above (>) or took it (<)"

# The commands of a page, word for word, in the order of the text: what is indented within
# its numbered lists. A block there is the file of its kind, or the end of it.
steps_of() {
    rm -rf "$root/build/steps"
    mkdir "$root/build/steps"
    awk -v steps="$root/build/steps" -v php="$php" '
        BEGIN {
            file["toml"] = ">/etc/mailaffinity.toml"
            file["ini"] = ">/etc/php/" php "/mods-available/mailaffinity.ini"
            file["php"] = ">>/etc/roundcube/config.inc.php"
        }
        function close_step() { if (step) close(step); step = "" }
        function open_step() { if (!step) step = sprintf("%s/%02d", steps, ++count) }
        /^   ```[a-z]/ { open_step(); block = 1; print "cat " file[substr($0, 7)] " <<\"END\"" >step; next }
        /^   ```/ { print "END" >step; block = 0; close_step(); next }
        block { sub(/^   /, ""); print >step; next }
        /^       / { open_step(); sub(/^       /, ""); print >step; next }
        /^$/ { next }
        { close_step() }' "$here/$1"
    [ "$(find "$root/build/steps" -type f | wc -l)" -ge 12 ] || fail "$1 has too few steps"
}

# What a reader does without a word.
cat >"$root/root/reader" <<'END'
# It exits with 1 where there is something to do.
mailaffinity() {
    status=0
    command mailaffinity "$@" || status=$?
    [ "$1 $status" = "diff 1" ] || return $status
}
# What a reader waits for: at most five minutes, which a correct run never needs.
wait_for() (
    set +x
    waited=0
    until eval "$1" >/dev/null 2>&1; do
        waited=$((waited + 1))
        [ $waited -lt 300 ] || { echo "never came true: $1"; exit 1; }
        sleep 1
    done
)
do_step() {
    printf "+ %s\n" "$(cat "$1")"
    # A command that fails ends the shell.
    trap 'cat /root/output' EXIT
    . "$1" >/root/output 2>&1
    trap - EXIT
    cat /root/output
}
END

# No step was forgotten, but for those of another way to install, which have a word.
all_steps_in() {
    for step in "$root"/build/steps/*; do
        grep -q "$2" "$step" || grep -qFx -- "+ $(head -n 1 "$step")" "$1" || fail "a step was not run: $(cat "$step")"
    done
}

# Of the two ways to install, that of the packages.
say "doc/walk-through.md"
steps_of doc/walk-through.md
in_booted_root <<'END' >"$folder/walk.log" 2>&1 || { cat "$folder/walk.log"; fail "the walk-through failed"; }
cd /build
. ~/reader
for step in /build/steps/*; do
    case $(cat $step) in
    *'make install-command'*) continue ;;
    # The node is dead long enough.
    'mailaffinity drain --node node1') wait_for '! mailaffinity drain --dry-run --node node1 | grep after_seconds' ;;
    esac
    do_step $step
    case $(cat $step) in
    *'mailaffinity_*.deb'*) mailaffinity --version ;;
    *'cat /etc/mail/access'*) grep 'QGRP:dieter@.*node2group' /root/output ;;
    *'sendmail -bt'*) grep 'node1group' /root/output ;;
    *'sendmail -Am'*)
        ls /mnt/gfs2/mqueue/q2 | grep ^qf
        wait_for 'grep hello /var/mail/anna'
        test ! -e /var/mail/dieter
        ;;
    *'mailaffinity nodes'*) grep '^node2 *down.*new disks' /root/output && grep 'QGRP:dieter@.*node[13]group' /etc/mail/access ;;
    'mailaffinity drain --node node1') grep hello /var/mail/dieter ;;
    *'mailaffinity auto'*) grep 'QGRP:dieter@.*node2group' /etc/mail/access ;;
    *'systemctl enable'*)
        systemctl is-active mailaffinity-watch.service
        grep '/usr/bin/mailaffinity update' $doc/examples/mailaffinity.cron
        ;;
    esac
done
END
all_steps_in "$folder/walk.log" 'make install-command'

# On the walk-through's machine, whose watcher is enabled: with all that its sandbox has to
# allow. The nodes are addresses of this machine, on which sendmail is to answer.
say "the units, below systemd"
in_booted_root <<'END' >"$folder/units.log" 2>&1 || { cat "$folder/units.log"; fail "the units do not do what they should"; }
. ~/reader
trap 'systemctl --no-pager status "mailaffinity-*"; journalctl --no-pager --lines 200 --unit "mailaffinity-*"' EXIT
watch=mailaffinity-watch.service
watcher() { systemctl show --property MainPID --value $watch; }
is() { test "$(systemctl is-active mailaffinity-$1)" = "$2"; }
group_of() { sed -n "s/^QGRP:$1@[[:space:]]*//p" /etc/mail/access; }
goes_to() { wait_for "group_of $1 | grep -x $2"; }
set -x

# The boot has started it, and waited for its word.
is watch.service active
systemctl show --property StatusText $watch | grep '3 nodes, all up'

# As the walk-through has it for one machine that plays a node.
for unit in watch.service drain.service; do
    mkdir /etc/systemd/system/mailaffinity-$unit.d
    {
        printf '[Service]\nExecStart=\n'
        sed -n 's/^ExecStart=.*/& --node node1/p' /usr/lib/systemd/system/mailaffinity-$unit
    } >/etc/systemd/system/mailaffinity-$unit.d/override.conf
done
systemctl daemon-reload
systemctl restart $watch
service sendmail restart
for address in 1 2 3; do ip address add 192.0.2.$address/32 dev lo; done

cp /etc/mailaffinity.toml /etc/mailaffinity.users ~
cat >~/told <<'PROGRAM'
#!/bin/sh
echo "$@" >>/var/spool/told
printf 'Subject: %s\n\ntold\n' "$*" | sendmail anna@example.org
PROGRAM
chmod 755 ~/told
mkdir -p /var/lib/prometheus/node-exporter
{
    echo 'shared_node_state = "/mnt/gfs2/mailaffinity/nodes.toml"'
    sed "/^node_state/d; s|^file = .*|command = [\"/usr/bin/cat\", \"$HOME/mailaffinity.users\"]|" ~/mailaffinity.toml
    cat <<CONFIG
[checks]
probe = "tcp"
port = 25
[watch]
update_seconds = 86400
on_change = [["$HOME/told"]]
metrics = "/var/lib/prometheus/node-exporter/mailaffinity.prom"
[drain]
after_seconds = 1
CONFIG
} >~/new.toml
mv ~/new.toml /etc/mailaffinity.toml
wait_for 'grep "mailaffinity_node_up{node=\"node3\"} 1" /var/lib/prometheus/node-exporter/mailaffinity.prom'

# A mark is followed; what waits for node2 is delivered by a drain, outside of the sandbox.
goes_to dieter node2group
printf 'Subject: test\n\nfor the drain\n' | sendmail -Am dieter@example.org
ls /mnt/gfs2/mqueue/q2 | grep ^qf
mailaffinity down node2 --reason 'old disks'
goes_to dieter 'node[13]group'
grep 'old disks' /mnt/gfs2/mailaffinity/nodes.toml /var/lib/mailaffinity/nodes.toml
wait_for 'grep "for the drain" /var/mail/dieter'
wait_for 'grep -x "node2 down" /var/spool/told'
wait_for 'journalctl --unit mailaffinity-drain.service | grep "drain of node2: 1 messages before, 0 after"'

# A node dies.
ip address del 192.0.2.3/32 dev lo
wait_for 'grep -x "node3 down" /var/spool/told'
test "$(cut -f 2 /etc/mail/access | grep group | sort -u)" = node1group
ip address add 192.0.2.3/32 dev lo
wait_for 'grep -x "node3 up" /var/spool/told'
# The program sent mail, too.
wait_for 'grep "Subject: node3 up" /var/mail/anna'

# A list of users that is no file is read when it is told to.
echo gustav >>~/mailaffinity.users
systemctl reload $watch
goes_to gustav 'node[13]group'

# Killed, or without a word, it is started anew, and goes on.
before=$(watcher)
systemctl kill --signal KILL $watch
wait_for "is watch.service active && [ \$(watcher) != $before ]"
mailaffinity auto node2
goes_to dieter node2group
before=$(watcher)
kill -STOP $before
wait_for "is watch.service active && [ \$(watcher) != $before ]"
test "$(systemctl show --property NRestarts --value $watch)" = 2
journalctl --unit $watch | grep 'Watchdog timeout'

# Timers and watcher end each other.
for timer in update.timer drain.timer; do
    systemctl start mailaffinity-$timer
    wait_for 'is watch.service inactive'
    is $timer active
    # Without a watcher it is the timer that follows.
    if [ $timer = update.timer ]; then
        mailaffinity down node2
        goes_to dieter 'node[13]group'
        mailaffinity auto node2
    fi
    systemctl start $watch
    is watch.service active
    wait_for "is $timer inactive"
done
goes_to dieter node2group

# The sandboxes have forbidden nothing, and the watcher ends when it is told to.
wait_for 'grep -x "mailaffinity_problems 0" /var/lib/prometheus/node-exporter/mailaffinity.prom'
test "$(journalctl --unit 'mailaffinity-*' | grep -c -i -e 'read-only' -e 'not permitted' -e 'denied')" = 0
systemctl stop $watch
is watch.service inactive
test "$(systemctl show --property Result --value $watch)" = success

# Where packages may start what is theirs, an upgrade starts the watcher anew, and purging ends it.
mv /usr/sbin/policy-rc.d ~
systemctl start $watch
before=$(watcher)
apt-get -qq install /build/target/next/mailaffinity_*.deb
is watch.service active
test "$(watcher)" != "$before"
before=$(watcher)
apt-get -qq purge mailaffinity
is watch.service inactive
test ! -e /proc/$before
# Nothing is started that nobody has enabled.
apt-get -qq install /build/target/next/mailaffinity_*.deb
for unit in watch.service update.timer drain.timer; do is $unit inactive; done
apt-get -qq purge mailaffinity
mv ~/policy-rc.d /usr/sbin

trap - EXIT
mv ~/mailaffinity.toml ~/mailaffinity.users /etc
rm -r /var/lib/prometheus /etc/systemd/system/mailaffinity-*.d
END

say "purged after it: what is left is the administrator's"
snapshot "$folder/after"
# His configuration, map, users, their mail, sendmail's queues; logs; and lock files.
diff "$folder/before" "$folder/after" | grep '^[<>]' | grep -v -E \
    -e ' \./etc/(mailaffinity\.(toml|users)|mail(/.*)?|\.pwd\.lock|((passwd|group|shadow|gshadow|subuid|subgid)-?)) ?$' \
    -e ' \./(mnt/gfs2|home|var/mail|var/spool|var/log|root)(/.*)? ?$' -e ' \./(etc|home|mnt) ?$' \
    >"$folder/left" || true
cat "$folder/left"
[ ! -s "$folder/left" ] || fail "purging left the above (>) or took it (<)"
if (cd "$root" && find . -xdev \( -path ./root -o -path ./build \) -prune -o -name '*mail*affinity*' -print) |
    grep -v -x -e './etc/mailaffinity.toml' -e './etc/mailaffinity.users' -e './mnt/gfs2/mailaffinity' \
        -e './mnt/gfs2/mqueue/q[0-9]/.mailaffinity.lock'; then
    fail "purging left the above"
fi

# On the walk-through's machine, from the source. The nodes are addresses of this machine,
# which trusts their certificate.
say "doc/webmail.md"
steps_of doc/webmail.md
printf '127.0.0.%d node%d.example.org\n' 11 1 12 2 13 3 >"$folder/nodes"
cat "$root/etc/hosts" >>"$folder/nodes"
cp "$folder/nodes" "$root/etc/hosts"
echo "$here" >"$root/build/source"
in_booted_root "$here" <<'END' >"$folder/webmail.log" 2>&1 ||
. ~/reader
apt-get -qq install dovecot-imapd openssl curl make perl php-dev >/dev/null
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=nodes -keyout /root/node.key \
    -addext subjectAltName=DNS:node1.example.org,DNS:node2.example.org,DNS:node3.example.org \
    -out /usr/local/share/ca-certificates/node.crt 2>/dev/null
update-ca-certificates
install -d -o nobody -g nogroup /srv/imap
cat >/root/dovecot.conf <<'CONF'
protocols = imap
log_path = /root/dovecot.log
login_log_format_elements = user=<%u> lip=<%l>
ssl_cert = </usr/local/share/ca-certificates/node.crt
ssl_key = </root/node.key
mail_location = maildir:/srv/imap/%u
mail_uid = nobody
mail_gid = nogroup
first_valid_uid = 1
passdb {
  driver = static
  args = password=secret
}
userdb {
  driver = static
}
CONF
case $(dovecot --version) in
2.3.*) ;;
*)
    cat >/root/dovecot.conf <<'CONF'
dovecot_config_version = 2.4.1
dovecot_storage_version = 2.4.1
protocols = imap
log_path = /root/dovecot.log
login_log_format_elements = user=<%{user}> lip=<%{local_ip}>
ssl_server_cert_file = /usr/local/share/ca-certificates/node.crt
ssl_server_key_file = /root/node.key
mail_driver = maildir
mail_path = /srv/imap/%{user}
mail_uid = nobody
mail_gid = nogroup
first_valid_uid = 1
passdb static {
  password = secret
}
userdb static {
}
CONF
    ;;
esac
dovecot -c /root/dovecot.conf

cd "$(cat /build/source)"
# The source was built where there is a Rust compiler; nothing is built here.
make() {
    [ $# -eq 0 ] || command make CARGO=false "$@"
}
for step in /build/steps/*; do
    case $(cat $step) in
    *'mailaffinity_*.deb'*) continue ;;
    esac
    do_step $step
    case $(cat $step) in
    *'runuser -u www-data'*)
        runuser -u www-data -- cat /var/lib/mailaffinity/answers.cdb >/dev/null
        test "$(runuser -u www-data -- cat /etc/mail/access.db 2>&1 | grep -c 'Permission denied')" = 1
        test "$(grep -c mailaffinity: /root/output)" = 0
        grep -x 'node[123].example.org' /root/output
        test "$(cut -s -f 3 /root/output)" = "$(sed -n '$p' /root/output)"
        ;;
    esac
done

# Roundcube's users are where they belong.
token() {
    grep -o 'name="_token" value="[^"]*' /root/page | sed 's/.*"//'
}
for user in anna bert carla dieter; do
    rm -f /root/cookies
    curl --silent --show-error --fail --cookie-jar /root/cookies --output /root/page http://127.0.0.1/roundcube/
    curl --silent --show-error --location --cookie /root/cookies --cookie-jar /root/cookies --output /root/page \
        --data-urlencode "_token=$(token)" --data "_task=login&_action=login&_user=$user&_pass=secret" \
        'http://127.0.0.1/roundcube/?_task=login'
    address=$(getent hosts "$(mailaffinity map $user | cut -f 3)" | cut -d ' ' -f 1)
    wait_for "grep 'user=<$user>' /root/dovecot.log"
    grep -E "(Login|Logged in): user=<$user>, lip=<$address>" /root/dovecot.log
done
test "$(grep -o 'lip=<[^>]*' /root/dovecot.log | sort -u | wc -l)" -ge 2
test ! -s /var/log/roundcube/errors.log
END
    { cat "$folder/webmail.log"; fail "the page on webmail failed"; }
all_steps_in "$folder/webmail.log" 'mailaffinity_\*\.deb'

echo "the Debian packages: all as expected"
