#!/bin/sh
# Usage: run-tests.sh [TEST.phpt...]
#
# Builds the module and runs its tests, all unless some are named, with PHP's own
# run-tests.php. Prints what a failed test wanted and got, and at the end how many passed.
# Fails if a test fails, is skipped, or none ran.
#
# PHP and PHP_CONFIG name another PHP.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
php=${PHP:-php}
php_config=${PHP_CONFIG:-php-config}
runner=$("$php_config" --extension-dir)/build/run-tests.php
[ -e "$runner" ] || runner=$("$php_config" --prefix)/lib/php/build/run-tests.php
if [ ! -e "$runner" ]; then
    echo "run-tests.php is missing; it comes with PHP's development files (php-dev)" >&2
    exit 1
fi

target=$here/target
[ -z "${CARGO_TARGET_DIR:-}" ] || target=$CARGO_TARGET_DIR/php
${CARGO:-cargo} build --locked --release --manifest-path "$here/Cargo.toml" --target-dir "$target"
module=$(cd "$target" && pwd)/release/libmailaffinity_php.so

[ "$#" -gt 0 ] || set -- "$here/tests"
# The runner writes beside itself, which only root may do where it is installed.
temporary=$(mktemp -d)
cp "$runner" "$temporary/run-tests.php"
results=$temporary/results
# By the trap.
# shellcheck disable=SC2317
clean() {
    rm -rf "$temporary"
    rm -rf "$here"/tests/*.tmp
    for test in "$here"/tests/*.phpt; do
        for left in diff exp log out php sh; do
            rm -f "${test%.phpt}.$left"
        done
    done
}
trap clean EXIT
trap 'exit 1' HUP INT TERM

TEST_PHP_EXECUTABLE=$(command -v "$php")
export TEST_PHP_EXECUTABLE
status=0
"$php" -n "$temporary/run-tests.php" -q -n -P --no-color --show-diff --set-timeout 600 -W "$results" -d extension="$module" "$@" || status=$?

# Lines of the results: PASSED, FAILED, SKIPPED, ... and the test.
if [ ! -s "$results" ]; then
    echo "No test ran" >&2
    exit 1
fi
echo "phpt: $(grep -c '^PASSED' "$results") passed, $(grep -vc '^PASSED' "$results") failed"
if grep -v '^PASSED' "$results" >&2; then
    exit 1
fi
exit "$status"
