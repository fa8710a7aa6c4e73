#!/bin/sh
# Usage: test-zts.sh
#
# Tests the module with a thread-safe PHP (ZTS), which Debian does not have: builds one
# from the source of Debian's PHP, as small as possible, runs run-tests.sh with it, and
# then threads that use the module at once, by themselves and in Valgrind. What is built
# stays in target/zts.
#
# JOBS is how many compilers run at once.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
zts=$here/target/zts
php=$zts/bin/php
php_config=$zts/bin/php-config
version=$(php -r 'echo PHP_MAJOR_VERSION, ".", PHP_MINOR_VERSION;')

# The source that belongs to the packages this machine gets from Debian. Apt's own
# files stay as they are.
get_source() {
    apt=$zts/apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    # Not the archive of security updates, which may lack sources.
    # shellcheck disable=SC2016
    apt-get indextargets --format 'deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' 'Label: Debian' | sort -u >"$apt/sources.list"
    set -- -q -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt" -o APT::Sandbox::User=
    apt-get "$@" update
    (cd "$apt" && apt-get "$@" --download-only source "php$version")
    mkdir -p "$zts/source"
    tar -xf "$apt/php$version"_*.orig.tar.xz -C "$zts/source" --strip-components=1
}

build_php() {
    get_source
    mkdir -p "$zts/build"
    (
        cd "$zts/build"
        ../source/configure --quiet --prefix="$zts" --enable-zts --disable-all --enable-filter \
            --enable-cli --enable-fpm --enable-embed=shared --disable-cgi --disable-phpdbg CFLAGS='-O1 -g'
        make --silent -j "${JOBS:-$(nproc)}"
        make --silent install
    )
    # By the name of Debian's, which the tests look for first.
    ln -s php-fpm "$zts/sbin/php-fpm$version"
}

if [ ! -e "$zts/sbin/php-fpm$version" ]; then
    rm -rf "$zts"
    build_php
fi
"$php" -n -r 'exit(PHP_ZTS ? 0 : 1);'

export PHP="$php" PHP_CONFIG="$php_config" CARGO_TARGET_DIR="$zts/cargo"
PATH=$zts/sbin:$PATH "$here/run-tests.sh"

# What php-config prints is meant to be split into words.
# shellcheck disable=SC2046
"${CC:-cc}" -std=gnu11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Wno-unused-parameter -o "$zts/threads" \
    "$here/tests/threads/threads.c" $("$php_config" --includes) -L"$zts/lib" -Wl,-rpath,"$zts/lib" -lphp -pthread

# Usage: threads CHANGES [COMMAND...]
threads() {
    "$php" -n -d extension="$CARGO_TARGET_DIR/php/release/libmailaffinity_php.so" \
        "$here/tests/threads/threads.php" "$zts/threads" "$@" >"$zts/threads.out" || true
    cat "$zts/threads.out"
    if grep -q FAILED "$zts/threads.out" || ! grep -q "during $1 changes" "$zts/threads.out"; then
        exit 1
    fi
}

# Usage: in_valgrind CHANGES OPTION...
# Only what concerns the module counts: PHP has peculiarities of its own.
in_valgrind() {
    changes=$1
    shift
    # PHP's own allocator would hide errors, and code that is unloaded its names.
    USE_ZEND_ALLOC=0 ZEND_DONT_UNLOAD_MODULES=1 \
        threads "$changes" valgrind -q --num-callers=40 --log-file="$zts/valgrind.log" "$@"
    if grep -q libmailaffinity_php "$zts/valgrind.log"; then
        cat "$zts/valgrind.log" >&2
        exit 1
    fi
}

threads 300
in_valgrind 60 --leak-check=full --show-leak-kinds=definite
in_valgrind 30 --tool=helgrind --suppressions="$here/tests/threads/helgrind.supp"
echo "The module is good for threads."
