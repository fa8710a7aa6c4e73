#!/bin/sh
# Usage: apt.sh FOLDER SUITES COMMAND [ARGUMENT...]
#
# Runs a command of apt, apt-get update first, that knows the packages and sources of these
# suites of Debian, from where this machine has its own. FOLDER has its lists; the machine's
# own files stay as they are.
set -eu

here=$(dirname "$0")
folder=$1 suites=$2 command=$3
shift 3
if [ "$1" = update ]; then
    mkdir -p "$folder/lists/partial" "$folder/archives/partial"
    # Not the archives of updates, which may lack sources.
    for suite in $suites; do
        "$here/root.sh" archives "$suite" | sed -n "/ $suite main\$/ { p; s/^deb/deb-src/p }"
    done >"$folder/sources.list"
fi
exec "$command" -q -o Dir::Etc::SourceList="$folder/sources.list" -o Dir::Etc::SourceParts=- \
    -o Dir::State::Lists="$folder/lists" -o Dir::Cache="$folder" -o APT::Sandbox::User= "$@"
