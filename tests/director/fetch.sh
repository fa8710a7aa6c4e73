#!/bin/sh
# Usage: fetch.sh FOLDER
#
# Where the installed Dovecot has no Director, as Debian 13's: puts Debian 12's programs
# into FOLDER, as they are below /. tests/support/dovecot.rs runs them. Needs no root.
set -eu

folder=$1
case $(PATH=$PATH:/usr/sbin dovecot --version 2>/dev/null) in
2.2.* | 2.3.*) exit 0 ;;
esac
[ ! -e "$folder" ] || exit 0

cd "$(dirname "$0")/.."
mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
./root.sh archives bookworm >"$work/sources.list"
cd "$work"
mkdir -p lists/partial archives/partial

# apt, without what it knows of this machine.
apt() {
    apt-get -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$work/lists" -o Dir::State::Status=/dev/null -o Dir::Cache="$work" \
        -o APT::Sandbox::User="$(id -un)" "$@" >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        echo "fetch.sh: Debian 12's Dovecot, which has the Director that tests ask, cannot be had" >&2
        exit 1
    }
}
apt update
# The last is all that they need and Debian 13 does not have.
apt download dovecot-core dovecot-imapd dovecot-lmtpd libicu72
for package in *.deb; do
    dpkg-deb --extract "$package" root
done
mv root "$folder"
