#!/bin/sh
# Usage: fetch.sh FOLDER
#
# Puts Debian's exim4-daemon-heavy, and those of its libraries that this machine lacks, into
# FOLDER, as they are below /. Installed, it would take sendmail's place. tests/exim/main.rs
# runs it. Needs no root.
set -eu

folder=$1
[ ! -e "$folder" ] || exit 0
mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cd "$work"
libraries=$(apt-get -q --simulate install --no-install-recommends exim4-daemon-heavy |
    sed -n 's/^Inst \(lib[^ ]*\) .*/\1/p')
# The list is meant to be split into words.
# shellcheck disable=SC2086
apt-get -q -o APT::Sandbox::User="$(id -un)" download exim4-daemon-heavy $libraries >log 2>&1 || {
    cat log >&2
    echo "fetch.sh: Debian's exim4-daemon-heavy, which tests run, cannot be had" >&2
    exit 1
}
for package in *.deb; do
    dpkg-deb --extract "$package" root
done
mv root "$folder"
