#!/bin/sh
# Usage: install-packages.sh PACKAGE...
#
# Installs the Debian packages that are missing. Never removes one that is there:
# where apt-get would have to (another mail server in place of sendmail, say), it
# stops and names them. Where there is no apt-get it names what is needed, and
# HAVE_PACKAGES=1 says that it is there.
set -eu

[ -z "${HAVE_PACKAGES:-}" ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "There is no apt-get here. Needed is what Debian has in these packages:" >&2
    echo "$*" >&2
    echo "Install this system's packages of it, and run the same again with HAVE_PACKAGES=1." >&2
    exit 1
fi

missing=
for package; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "Installing:$missing"

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "These Debian packages are missing; install them as root:$missing" >&2
        exit 1
    fi
    as_root='sudo'
fi

$as_root apt-get update -q
# The list is meant to be split into words.
# shellcheck disable=SC2086
removed=$(apt-get --simulate install --no-install-recommends $missing | sed -n 's/^Remv \([^ ]*\).*/\1/p')
if [ -n "$removed" ]; then
    echo "Not installing$missing:" >&2
    echo "it would remove $(echo "$removed" | tr '\n' ' ')" >&2
    echo "Use a machine without these packages, or a container." >&2
    exit 1
fi
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends --no-remove $missing
