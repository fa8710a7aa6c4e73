#!/bin/sh
# Usage: build-cdb.sh FOLDER
#
# Builds sendmails whose only maps are cdb, which Debian's has not, from the source of Debian
# 12's: FOLDER/cdb has sendmail and makemap whose files end in .cdb, FOLDER/db those of
# CDB=2, whose files end in .db. Debian's m4 files want the option RejectNUL.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
apt() {
    "$here/../apt.sh" "$folder/apt" bookworm apt-get "$@"
}

if [ ! -e "$folder/db/makemap" ]; then
    apt update
    (cd "$folder" && apt source --download-only sendmail)
    for map in cdb:CDB db:CDB=2; do
        source=$folder/source-${map%:*}
        rm -rf "$source"
        dpkg-source --no-check -x "$folder"/sendmail_*.dsc "$source" >"$folder/log"
        cat >"$source/site.config.m4" <<CONFIG
define(\`confMAPDEF', \`-D${map#*:}')
define(\`confENVDEF', \`-D_FFR_REJECT_NUL_BYTE')
define(\`confLIBSEARCH', \`')
define(\`confLIBS', \`-lcdb -lresolv -lcrypt')
define(\`confOPTIMIZE', \`-O1')
CONFIG
        for part in libsm libsmutil libsmdb sendmail makemap; do
            (cd "$source/$part" && nice ./Build -f "$source/site.config.m4") >"$source/$part.log" 2>&1 ||
                { tail "$source/$part.log" >&2; exit 1; }
        done
        mkdir -p "$folder/${map%:*}"
        cp "$source"/obj.*/sendmail/sendmail "$source"/obj.*/makemap/makemap "$folder/${map%:*}"
        rm -rf "$source"
    done
fi
"$folder/db/makemap" -l
