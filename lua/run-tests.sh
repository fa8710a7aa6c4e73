#!/bin/sh
# Usage: run-tests.sh [TEST.lua...]
#
# Builds the module and runs its tests, all unless some are named. The command mailaffinity
# is the one in PATH.
#
# LUA names another Lua 5.4.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
lua=${LUA:-lua5.4}
target=$here/target
[ -z "${CARGO_TARGET_DIR:-}" ] || target=$CARGO_TARGET_DIR/lua
${CARGO:-cargo} build --locked --release --manifest-path "$here/Cargo.toml" --target-dir "$target"

if [ "$#" -eq 0 ]; then
    for test in "$here"/tests/*.lua; do
        [ "${test##*/}" = helpers.lua ] || set -- "$@" "$test"
    done
fi
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 1' HUP INT TERM

# As it is installed.
cp "$target/release/libmailaffinity_lua.so" "$TMPDIR/mailaffinity.so"
# shellcheck disable=SC2046
cc -shared -fPIC -Wall -Wextra -Werror -o "$TMPDIR/setenv.so" "$here/tests/setenv.c" $(pkg-config --cflags lua5.4)
cc -shared -fPIC -o "$TMPDIR/clock.so" "$here/../php/tests/clock.c" -ldl
export LUA_CPATH="$TMPDIR/?.so" LUA_PATH="$here/tests/?.lua"
cd "$here/.."
prove --exec "env LD_PRELOAD=$TMPDIR/clock.so $lua" "$@"
