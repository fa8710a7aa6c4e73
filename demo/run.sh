#!/bin/sh
# Usage: run.sh BUILT PHP_MODULE
#
# The main job, on a cluster of three nodes that need not exist: PHP maps users as
# SquirrelMail asks it to, from an access map, and a C program and the command map
# the same users. Prints them side by side and fails where they differ.
#
# BUILT is the folder with libmailaffinity.so and the commands.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
built=$(cd "$1" && pwd)
php_module=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

sed "s|@FOLDER@|$folder|" "$here/config.toml.in" >"$folder/mailaffinity.toml"
"${CC:-cc}" -std=c99 -Wall -Wextra -Werror -I"$here/../include" -o "$folder/map" "$here/map.c" \
    -L"$built" -lmailaffinity
# The program asks for the library by its SONAME.
ln -s "$built/libmailaffinity.so" "$folder/libmailaffinity.so.0"

map_by_php() {
    php -n -d extension="$php_module" -d mailaffinity.config="$folder/mailaffinity.toml" \
        -d error_log="$folder/php.log" "$here/map.php"
}
map_by_c() {
    LD_LIBRARY_PATH=$folder "$folder/map" "$folder/mailaffinity.toml"
}
map_by_command() {
    "$built/mailaffinity" map --config "$folder/mailaffinity.toml"
}

# Prints the table of a state of the cluster; fails unless all three agree.
table() {
    map_by_command <"$here/users" >"$folder/by_command"
    cut -f 3 "$folder/by_command" >"$folder/hosts"
    map_by_php <"$here/users" >"$folder/by_php"
    map_by_c <"$here/users" >"$folder/by_c"
    printf '%-24s %-18s %-18s %-18s %s\n' USER PHP 'C LIBRARY' COMMAND 'QUEUE GROUP'
    cut -f 4 "$folder/by_command" |
        paste "$here/users" "$folder/by_php" "$folder/by_c" "$folder/hosts" - |
        while IFS='	' read -r user php c command group; do
            printf '%-24s %-18s %-18s %-18s %s\n' "$user" "$php" "$c" "$command" "$group"
        done
    cmp "$folder/by_php" "$folder/hosts"
    cmp "$folder/by_c" "$folder/hosts"
    echo
}

# The access map as the administrator would have it: one entry a user.
map_by_command <"$here/users" | while IFS='	' read -r user _ _ group; do
    case $user in
    *@*) printf 'QGRP:%s\t%s\n' "$user" "$group" ;;
    *) printf 'QGRP:%s@\t%s\n' "$user" "$group" ;;
    esac
done >"$folder/access"

echo "All nodes are up; PHP finds each user's queue group in the access map:"
echo
table
if [ -s "$folder/php.log" ]; then
    echo "PHP had to step down from the access map:" >&2
    cat "$folder/php.log" >&2
    exit 1
fi

cat >"$folder/nodes.toml" <<STATE
[node.node2]
state = "down"
since = "2026-01-01T00:00:00Z"
reason = "demonstration"
STATE
echo "node2 is down and the access map is stale; only the users of node2 move:"
echo
table
echo "What PHP's error log says of it:"
sed 's/^/  /' "$folder/php.log"
echo
echo "PHP, the C library and the command agree."
