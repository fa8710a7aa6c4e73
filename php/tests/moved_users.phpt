--TEST--
A node state that came by rename is read once, however new it is
--INI--
mailaffinity.config={PWD}/moved_users.tmp/mailaffinity.toml
error_log={PWD}/moved_users.tmp/php.log
--FILE--
<?php
require 'helpers.inc';

/** Some users were moved to node1, as after `doveadm director move`. */
function move_users(int $number): void
{
    $hashes = array_map(fn ($i) => sprintf('%08x', crc32("user$i")), range(1, $number));
    replace('nodes.toml', "[node.node1]\nmoved = \"" . implode(' ', $hashes) . "\"\n");
}

/** What this process reads of files for a page. */
function bytes_of_a_page(): int
{
    $read = fn () => (int) preg_replace('/.*^rchar: (\d+).*/ms', '$1', file_get_contents('/proc/self/io'));
    $before = $read();
    map_user_via_sendmail_access('user1');
    return $read() - $before;
}

configure();
mark_down('node2');
bytes_of_a_page();
foreach ([100000, 200000] as $number) {
    move_users($number);
    $size = filesize(path('nodes.toml'));
    check(bytes_of_a_page() >= $size, 'a new node state is read');
    $more = array_map(fn () => bytes_of_a_page(), range(1, 5));
    check(max($more) < 1000, "the next pages read up to " . max($more) . " bytes of $size again");
}
print_r(newly_logged());
?>
--EXPECT--
Array
(
)
