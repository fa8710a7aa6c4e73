#!/bin/sh
# Usage: install.sh
#
# `make install` and `make uninstall`, below DESTDIR, of what `make` has built: what is
# there, that it works from there, and that nothing is left. Needs neither root nor Cargo.
#
# PHP_CONFIG and PERL name another PHP and Perl, as for make.
set -eu

cd "$(dirname "$0")/.."
# A `make test` may have other wishes.
unset MAKEFLAGS
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

# What is built is current: nothing may be built here.
run_make() {
    make --silent CARGO='echo cargo was called; false' "$@" >"$folder/make.log" 2>&1 || {
        cat "$folder/make.log" >&2
        fail "make $* failed"
    }
}

# All files of a folder: mode, path, and where a link leads.
files() {
    (cd "$1" && find . ! -type d -printf '%M %P %l\n' | sed 's/ *$//' | LC_ALL=C sort -k 2)
}

# The same with what is in them.
contents() {
    files "$1"
    (cd "$1" && find . -type d -printf '%M %P\n' | LC_ALL=C sort)
    (cd "$1" && find . -type f -exec sha256sum {} + | LC_ALL=C sort)
}

same() {
    diff "$1" "$2" >&2 || fail "$3"
}

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
extensions=$("${PHP_CONFIG:-php-config}" --extension-dir)
ini=$("${PHP_CONFIG:-php-config}" --ini-path)/../mods-available
[ -d "$ini" ] || ini=$("${PHP_CONFIG:-php-config}" --ini-dir)
ini=$(realpath "$ini")
# These are Perl's and PHP's variables.
# shellcheck disable=SC2016
perl_library=$("${PERL:-perl}" -MConfig -e 'print $Config{sitelib}')
# shellcheck disable=SC2016
perl_below_prefix=${perl_library#"$("${PERL:-perl}" -MConfig -e 'print $Config{siteprefix}')"}

# What Red Hat's world has otherwise.
lib=/lib
cf=/usr/share/sendmail/cf

# What is expected with a PREFIX.
expected() {
    for page in "$folder"/man1/*.1; do
        echo "-rw-r--r-- $1/share/man/man1/${page##*/}"
    done
    for page in doc/man/*.[1-8]; do
        echo "-rw-r--r-- $1/share/man/man${page##*.}/${page##*/}"
    done
    for page in doc/*.md doc/pictures/*.svg; do
        echo "-rw-r--r-- $1/share/doc/mailaffinity/$page"
    done
    cat <<END
-rwxr-xr-x $1/bin/hash_user_group
-rwxr-xr-x $1/bin/mailaffinity
-rw-r--r-- $1/include/mailaffinity.h
-rw-r--r-- $1$lib/libmailaffinity.a
lrwxrwxrwx $1$lib/libmailaffinity.so libmailaffinity.so.0
lrwxrwxrwx $1$lib/libmailaffinity.so.0 libmailaffinity.so.$version
-rw-r--r-- $1$lib/libmailaffinity.so.$version
-rw-r--r-- $1$lib/lua/5.4/mailaffinity.so
-rw-r--r-- $1$lib/pkgconfig/mailaffinity.pc
-rw-r--r-- $1/lib/systemd/system/mailaffinity-drain.service
-rw-r--r-- $1/lib/systemd/system/mailaffinity-drain.timer
-rw-r--r-- $1/lib/systemd/system/mailaffinity-update.service
-rw-r--r-- $1/lib/systemd/system/mailaffinity-update.timer
-rw-r--r-- $1/share/doc/mailaffinity/CHANGELOG.md
-rw-r--r-- $1/share/doc/mailaffinity/CONTRIBUTING.md
-rw-r--r-- $1/share/doc/mailaffinity/LICENSE
-rw-r--r-- $1/share/doc/mailaffinity/README.md
-rw-r--r-- $1/share/doc/mailaffinity/SECURITY.md
-rw-r--r-- $1/share/doc/mailaffinity/examples/cluster.mc
-rwxr-xr-x $1/share/doc/mailaffinity/examples/construct_qgroups
-rw-r--r-- $1/share/doc/mailaffinity/examples/mailaffinity.cron
-rw-r--r-- $1/share/doc/mailaffinity/examples/mailaffinity.toml.example
-rw-r--r-- $1/share/mailaffinity/dovecot.lua
-rw-r--r-- $1/share/mailaffinity/mailaffinity-node.conf
-rw-r--r-- $1/share/mailaffinity/mailaffinity-proxy.conf
-rw-r--r-- $1/share/man/man3/Mail::Affinity.3pm
-rw-r--r-- $1$perl_below_prefix/Mail/Affinity.pm
-rw-r--r-- $cf/feature/mailaffinity.m4
-rw-r--r-- $extensions/mailaffinity.so
-rw-r--r-- $ini/mailaffinity.ini
END
}

expect() {
    expected "$1" | sed 's| /| |' | LC_ALL=C sort -k 2 >"$folder/expected"
    files "$2" >"$folder/found"
    same "$folder/expected" "$folder/found" "not what is expected below $1"
}

# What is there, whatever the umask; twice is as once.
umask 077
root=$folder/root
mkdir -m 755 "$root" "$root/usr" "$root/usr/local"
mkdir -m 2775 "$root/usr/local/bin"
run_make install DESTDIR="$root"
umask 022
[ "$(stat -c %a "$root/usr/local/bin")" = 2775 ] || fail "installing has changed the mode of a folder"
chmod 00755 "$root/usr/local/bin"
"$root/usr/local/bin/mailaffinity" manual "$folder/man1"
expect /usr/local "$root"
[ -z "$(find "$root/" -mindepth 1 -type d ! -perm 755)" ] || fail "a folder is not for all to read"
contents "$root" >"$folder/once"
run_make install DESTDIR="$root"
contents "$root" >"$folder/twice"
same "$folder/once" "$folder/twice" "installing again has changed something"

# Another PREFIX is honoured in the paths and in the files.
prefix=/opt/mail
run_make install DESTDIR="$folder/other" PREFIX=$prefix
expect $prefix "$folder/other"
units=$folder/other$prefix/lib/systemd/system
for file in "$units"/*.service "$folder/other$prefix/share/doc/mailaffinity/examples/mailaffinity.cron"; do
    grep -q "$prefix/bin/mailaffinity " "$file" || fail "$file does not name $prefix/bin"
done
shared=$folder/other$prefix/share/mailaffinity
grep -qx "  lua_file = $prefix/share/mailaffinity/dovecot.lua" "$shared/mailaffinity-node.conf" ||
    fail "Dovecot would look for dovecot.lua elsewhere"
# (What the documentation says is of the usual PREFIX, and so is Perl's search path.)
if grep -rIl /usr/local "$units" "$folder/other$prefix/lib/pkgconfig" \
    "$folder/other$prefix/share/doc/mailaffinity/examples/mailaffinity.cron" >&2 ||
    grep -rI '@[A-Z]*@' "$units" "$folder/other$prefix/lib/pkgconfig" "$shared" >&2; then
    fail "these are not of $prefix"
fi

# The C library as pkg-config finds it there.
export PKG_CONFIG_LIBDIR="$root/usr/local/lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$root"
[ "$(pkg-config --modversion mailaffinity)" = "$version" ] || fail "pkg-config names another version"
# shellcheck disable=SC2046
cc -std=c99 -o "$folder/shared" demo/map.c $(pkg-config --cflags --libs mailaffinity)
# shellcheck disable=SC2046
cc -std=c99 -o "$folder/static" demo/map.c \
    $(pkg-config --cflags --libs --static mailaffinity | sed 's/-lmailaffinity/-l:libmailaffinity.a/')
readelf -d "$folder/shared" | grep -q 'NEEDED.*\[libmailaffinity\.so\.0\]' || fail "not linked by SONAME"
if readelf -d "$folder/static" | grep 'NEEDED.*libmailaffinity' >&2; then
    fail "the static library was not taken"
fi
config=$folder/mailaffinity.toml
sed "s|@FOLDER@|$folder|" demo/config.toml.in >"$config"
"$root/usr/local/bin/mailaffinity" map --config "$config" <demo/users | cut -f 3 >"$folder/by_command"
[ -s "$folder/by_command" ] || fail "the command maps nobody"
for program in shared static; do
    LD_LIBRARY_PATH=$root/usr/local/lib "$folder/$program" "$config" <demo/users >"$folder/by_$program"
    same "$folder/by_command" "$folder/by_$program" "the command and the $program library differ"
done

# Lua.
echo "local site = require 'mailaffinity'.open('$config')
for user in io.lines('demo/users') do print(site.node(user).host) end" |
    LUA_CPATH="$root/usr/local/lib/lua/5.4/?.so" "${LUA:-lua5.4}" - >"$folder/by_lua"
same "$folder/by_command" "$folder/by_lua" "the command and Lua differ"

# PHP, by the ini file that phpenmod takes, and Perl.
# shellcheck disable=SC2016
PHP_INI_SCAN_DIR=$root$ini "${PHP:-php}" -d extension_dir="$root$extensions" -d mailaffinity.config="$config" \
    -r 'foreach (file("demo/users") as $user) { echo mailaffinity_node(rtrim($user, "\n"))["host"], "\n"; }' \
    >"$folder/by_php" 2>"$folder/php.log"
same "$folder/by_command" "$folder/by_php" "the command and PHP differ"
found=$(LD_LIBRARY_PATH=$root/usr/local/lib "${PERL:-perl}" -I"$root$perl_library" -MMail::Affinity \
    -e 'print Mail::Affinity::library_version()')
[ "$found" = "$version" ] || fail "Perl has version $found"

# Nothing is left but what is the administrator's, and no shared folder is gone.
printf '[node.node1]\nstate = "down"\n' >"$root/var/lib/mailaffinity/nodes.toml"
touch "$root/usr/local/bin/other"
run_make uninstall DESTDIR="$root"
printf '%s\n' '-rw-r--r-- usr/local/bin/other' '-rw-r--r-- var/lib/mailaffinity/nodes.toml' >"$folder/expected"
files "$root" >"$folder/found"
same "$folder/expected" "$folder/found" "not what uninstalling leaves"
[ -d "$root/usr/local/share/man/man1" ] || fail "uninstalling has removed a shared folder"
[ ! -e "$root/usr/local/share/doc/mailaffinity" ] || fail "the documentation's folder is left"

# What the administrator wrote into PHP's ini file stays.
run_make install-php DESTDIR="$root"
echo 'mailaffinity.fallback=imap.example.org' >>"$root$ini/mailaffinity.ini"
cp "$root$ini/mailaffinity.ini" "$folder/edited.ini"
run_make install-php DESTDIR="$root"
run_make uninstall-php DESTDIR="$root"
same "$folder/edited.ini" "$root$ini/mailaffinity.ini" "the edited ini file is another"
[ ! -e "$root$extensions/mailaffinity.so" ] || fail "the PHP module is left"

# Each part by itself, and together they are all.
for part in library command lua php perl doc; do
    run_make install-$part DESTDIR="$folder/part"
    (cd "$folder/part" && find . ! -type d) >>"$folder/parts"
    run_make uninstall-$part DESTDIR="$folder/part"
    [ -z "$(files "$folder/part")" ] || fail "uninstall-$part leaves $(files "$folder/part")"
    [ -z "$(find "$folder/part/" -name '*mailaffinity*')" ] || fail "uninstall-$part leaves a folder"
done
sort "$folder/parts" >"$folder/found"
run_make install DESTDIR="$folder/part"
(cd "$folder/part" && find . ! -type d) | sort >"$folder/expected"
same "$folder/expected" "$folder/found" "the parts are not all"

# The folders of Red Hat's world, where PHP reads all ini files of one.
cat >"$folder/php-config" <<END
#!/bin/sh
case \$1 in
--ini-path) echo /etc ;;
--ini-dir) echo /etc/php.d ;;
*) exec ${PHP_CONFIG:-php-config} "\$@" ;;
esac
END
chmod 755 "$folder/php-config"
lib=/lib64 cf=/usr/share/sendmail-cf ini=/etc/php.d extensions=/usr/lib64/php/modules
# shellcheck disable=SC2016
perl_below_prefix=$("${PERL:-perl}" -MConfig -e 'print $Config{vendorlib}')
perl_below_prefix=${perl_below_prefix#/usr}
set -- DESTDIR="$folder/red-hat" PREFIX=/usr LIBDIR=/usr/lib64 CFDIR=$cf \
    PHP_CONFIG="$folder/php-config" PHP_EXTENSIONDIR=$extensions
run_make install "$@"
expect /usr "$folder/red-hat"
grep -qx 'libdir=/usr/lib64' "$folder/red-hat/usr/lib64/pkgconfig/mailaffinity.pc" || fail "pkg-config names another libdir"
PHP_INI_SCAN_DIR=$folder/red-hat$ini "${PHP:-php}" -d extension_dir="$folder/red-hat$extensions" \
    -r 'exit(extension_loaded("mailaffinity") ? 0 : 1);' || fail "PHP does not load the module from there"
run_make uninstall "$@"
[ -z "$(files "$folder/red-hat")" ] || fail "uninstalling leaves $(files "$folder/red-hat")"

# Without apt-get, what is needed is named.
if PATH=$folder/nothing /bin/sh dist/install-packages.sh gcc php-dev 2>"$folder/needs"; then
    fail "install-packages.sh is content without apt-get"
fi
grep -qx 'gcc php-dev' "$folder/needs" || fail "install-packages.sh does not name what is needed"
HAVE_PACKAGES=1 PATH=$folder/nothing /bin/sh dist/install-packages.sh gcc php-dev || fail "HAVE_PACKAGES does not count"

echo "make install and make uninstall: all as expected"
