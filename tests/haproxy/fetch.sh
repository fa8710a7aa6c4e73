#!/bin/sh
# Usage: fetch.sh FOLDER
#
# Puts Debian 13's HAProxy, whose Lua is 5.4, and its libraries, libc too, into FOLDER, as
# they are below /. tests/haproxy/main.rs runs it, also in Debian 12. Needs no root.
set -eu

folder=$1
[ ! -e "$folder" ] || exit 0
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cd "$work"

# Without what it knows of this machine.
apt() {
    "$here/apt.sh" "$work" trixie apt-get "$@" -o Dir::State::Status=/dev/null 2>>log || {
        cat log >&2
        echo "fetch.sh: Debian 13's HAProxy, which tests run, cannot be had" >&2
        exit 1
    }
}
apt update >log
libraries=$(apt --simulate --no-install-recommends install haproxy | sed -n 's/^Inst \(lib[^ ]*\) .*/\1/p')
# The list is meant to be split into words.
# shellcheck disable=SC2086
apt download haproxy $libraries >>log
for package in *.deb; do
    dpkg-deb --extract "$package" root
done
mv root "$folder"
