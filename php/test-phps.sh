#!/bin/sh
# Usage: test-phps.sh [BUILD...]
#
# Tests the module with each PHP that it is for, thread-safe (ZTS) and not (NTS): runs
# run-tests.sh and, where PHP is thread-safe, threads that use the module at once, by
# themselves and in Valgrind. A table at the end says how each went. BUILDs, such as
# 8.2-zts, are those to test.
#
# PHP is built, as small as possible, from the source php-VERSION.*.tar.* in the folder
# PHP_SOURCES or, without one, that of Debian's package, of whichever suite has it. Where
# only the package can be had, it is installed in a new Debian system, which needs root.
# What cannot be had is named, and fails nothing unless it is among the BUILDs. What is
# made stays in target/phps.
#
# JOBS is how many compilers run at once.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
phps=$here/target/phps
suites='bookworm trixie forky experimental'

# Usage: row BUILD VERSION FROM RESULT
row() {
    printf '%-8s  %-10s  %-28s  %s\n' "$@" >>"$phps/table"
}

# Says what a command prints only if it fails. Usage: quietly LOG COMMAND...
quietly() {
    log=$1
    shift
    "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; return 1; }
}

apt() {
    "$here/../tests/apt.sh" "$phps/apt" "$suites" "$@"
}

# The first suite that has a package, or its source. Usage: suite_of PACKAGE Packages|Sources
suite_of() {
    versions=$(apt apt-cache madison "$1")
    for suite in $suites; do
        if echo "$versions" | grep -q " $suite/main .*$2\$"; then
            echo "$suite"
            return
        fi
    done
    return 1
}

# Finds the source of a version, as `tarball` and `from`, or why there is none.
find_source() {
    from=PHP_SOURCES
    tarball=$(find "${PHP_SOURCES:-/nonexistent}" -maxdepth 1 -name "php-$1.*.tar.*z*" ! -name '*.asc' 2>/dev/null |
        sort -V | tail -n 1)
    [ -z "$tarball" ] || return 0
    why="no suite of Debian has its source, nor PHP_SOURCES"
    suite=$(suite_of "php$1" Sources) || return 1
    from="source, Debian $suite"
    why="the source in Debian $suite cannot be downloaded"
    mkdir -p "$phps/source"
    (cd "$phps/source" && apt apt-get source --download-only "php$1/$suite") >"$phps/apt.log" 2>&1 || return 1
    tarball=$(find "$phps/source" -name "php$1_*.orig.tar.*z*" ! -name '*.asc' | sort -V | tail -n 1)
}

# Usage: build_php TARBALL VERSION KIND FOLDER
build_php() {
    rm -rf "$4/source" "$4/build" && mkdir -p "$4/source" "$4/build" && tar -xf "$1" -C "$4/source" --strip-components=1 || return 1
    version=$2 folder=$4
    case $3 in
    nts) set -- ;;
    zts) set -- --enable-zts --enable-embed=shared ;;
    esac
    (
        cd "$folder/build" &&
            ../source/configure --quiet --prefix="$folder" --disable-all --enable-filter --enable-cli --enable-cgi \
                --enable-fpm --disable-phpdbg CFLAGS='-O1 -g' "$@" &&
            nice make --silent -j "${JOBS:-$(nproc)}" &&
            make --silent install &&
            # By the names of Debian's, which the tests look for first.
            ln -sf php-fpm "$folder/sbin/php-fpm$version" &&
            ln -sf php-cgi "$folder/bin/php-cgi$version"
    ) && rm -rf "$folder/source" "$folder/build"
}

# Debian's PHP in a system of its own. The suites that are still in the making take part of
# theirs from the one before, such as what their own would need more of, or would not have
# beside that PHP. Usage: install_php VERSION SUITE FOLDER
install_php() {
    base=$2
    case $2 in forky | experimental) base=trixie ;; esac
    "$here/../tests/root.sh" make "$base" "$3/system" gcc libc6-dev binutils valgrind libc6-dbg mandoc sendmail-bin tinycdb \
        ucf php-common &&
        "$here/../tests/root.sh" run "$3/system" <<END || return 1
[ $base = $2 ] || sed -n 's/ $base main$/ forky main/p; s/ forky main$/ $2 main/p' /etc/apt/sources.list >/etc/apt/sources.list.d/more.list
apt-get update
apt-get install --target-release $2 php$1-cli php$1-dev php$1-fpm php$1-cgi
END
    mkdir -p "$3/bin"
    printf '#!/bin/sh\nexec chroot "%s" php%s "$@"\n' "$3/system" "$1" >"$3/bin/php"
    printf '#!/bin/sh\nchroot "%s" php-config%s "$@" | sed "s|-I/|-I%s/|g"\n' "$3/system" "$1" "$3/system" >"$3/bin/php-config"
    chmod 755 "$3/bin/php" "$3/bin/php-config"
}

# Usage: run_phpt FOLDER
run_phpt() {
    PATH=$1/sbin:$1/bin:$PATH PHP=$1/bin/php PHP_CONFIG=$1/bin/php-config CARGO_TARGET_DIR=$1/cargo "$here/run-tests.sh"
}

# The module is built here, where Rust is. Usage: run_phpt_in_root VERSION FOLDER
run_phpt_in_root() {
    PHP=$2/bin/php PHP_CONFIG=$2/bin/php-config \
        "${CARGO:-cargo}" build --locked --release --manifest-path "$here/Cargo.toml" --target-dir "$2/cargo/php" || return 1
    rm -rf "$2/system/build" &&
        mkdir -p "$2/system/build/cargo/php/release" &&
        cp "$2/cargo/php/release/libmailaffinity_php.so" "$2/system/build/cargo/php/release" &&
        tar -C "$here/.." --exclude=target --exclude=./fuzz --exclude=./.git -cf "$2/checkout.tar" . &&
        tar -C "$2/system/build" -xf "$2/checkout.tar" || return 1
    "$here/../tests/root.sh" run "$2/system" <<END
PHP=php$1 PHP_CONFIG=php-config$1 CARGO=true CARGO_TARGET_DIR=/build/cargo /build/php/run-tests.sh
END
}

# Usage: threads FOLDER CHANGES [COMMAND...]
threads() {
    folder=$1
    shift
    "$folder/bin/php" -n -d extension="$folder/cargo/php/release/libmailaffinity_php.so" \
        "$here/tests/threads/threads.php" "$folder/threads" "$@" >"$folder/threads.out" || true
    cat "$folder/threads.out"
    ! grep -q FAILED "$folder/threads.out" && grep -q "during $1 changes" "$folder/threads.out"
}

# Usage: threads_in_valgrind FOLDER CHANGES OPTION...
# Only what concerns the module counts: PHP has peculiarities of its own.
threads_in_valgrind() {
    folder=$1 changes=$2
    shift 2
    # PHP's own allocator would hide errors, and code that is unloaded its names.
    USE_ZEND_ALLOC=0 ZEND_DONT_UNLOAD_MODULES=1 \
        threads "$folder" "$changes" valgrind -q --num-callers=40 --log-file="$folder/valgrind.log" "$@" || return 1
    if grep -q libmailaffinity_php "$folder/valgrind.log"; then
        cat "$folder/valgrind.log" >&2
        return 1
    fi
}

# Usage: run_threads FOLDER
run_threads() {
    # What php-config prints is meant to be split into words.
    # shellcheck disable=SC2046
    "${CC:-cc}" -std=gnu11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Wno-unused-parameter -o "$1/threads" \
        "$here/tests/threads/threads.c" $("$1/bin/php-config" --includes) -L"$1/lib" -Wl,-rpath,"$1/lib" -lphp -pthread &&
        threads "$1" 300 &&
        threads_in_valgrind "$1" 60 --leak-check=full --show-leak-kinds=definite &&
        threads_in_valgrind "$1" 30 --tool=helgrind --suppressions="$here/tests/threads/helgrind.supp"
}

# Its status is 2 where that PHP cannot be had. Usage: test_php BUILD
test_php() {
    version=${1%-*} kind=${1#*-} folder=$phps/$1
    mkdir -p "$folder"
    if find_source "$version"; then
        made=$tarball make="build_php $tarball $version $kind $folder" run=run_phpt
    elif suite=$(suite_of "php$version-cli" Packages) && [ "$kind" = nts ]; then
        from="package, Debian $suite"
        made=$suite make="install_php $version $suite $folder" run="run_phpt_in_root $version"
    else
        row "$1" - - "could not be had: $why"
        return 2
    fi
    if [ "$(cat "$folder/.made" 2>/dev/null)" != "$made" ]; then
        # It is meant to be split into words.
        # shellcheck disable=SC2086
        if ! quietly "$folder/make.log" $make; then
            case $make in
            install_php*) row "$1" - "$from" "could not be had: it cannot be installed" && return 2 ;;
            *) row "$1" - "$from" "FAILED: it cannot be built" && return 1 ;;
            esac
        fi
        echo "$made" >"$folder/.made"
    fi
    is=$("$folder/bin/php" -n -r 'echo PHP_VERSION, PHP_ZTS ? "-zts" : "-nts";')
    case $is in
    "$version".*-"$kind") ;;
    *) row "$1" "${is%-?ts}" "$from" "FAILED: this is another PHP"; return 1 ;;
    esac
    status=0
    $run "$folder" >"$folder/phpt.log" 2>&1 || status=1
    cat "$folder/phpt.log"
    result=$(sed -n 's/^phpt: //p' "$folder/phpt.log")
    if [ "$kind" = zts ] && [ $status = 0 ]; then
        if run_threads "$folder"; then
            result="$result; threads too"
        else
            result="$result; threads FAILED" status=1
        fi
    fi
    row "$1" "${is%-?ts}" "$from" "${result:-FAILED: no test ran}"
    return $status
}

mkdir -p "$phps"
rm -f "$phps/table"
row PHP version from phpt
quietly "$phps/apt.log" apt apt-get update
had=0 failed=0 asked=$#
[ $asked -gt 0 ] || set -- 8.1-nts 8.1-zts 8.2-nts 8.2-zts 8.3-nts 8.3-zts 8.4-nts 8.4-zts 8.5-nts 8.5-zts
for build; do
    echo "--- PHP $build"
    status=0
    test_php "$build" || status=$?
    case $status in
    0) had=$((had + 1)) ;;
    2) [ $asked -eq 0 ] || failed=$((failed + 1)) ;;
    *) failed=$((failed + 1)) ;;
    esac
done
cat "$phps/table"
[ $failed -eq 0 ] && [ $had -gt 0 ]
