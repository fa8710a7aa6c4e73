--TEST--
A million calls need no more memory than a few
--INI--
mailaffinity.config={PWD}/memory.tmp/mailaffinity.toml
error_log={PWD}/memory.tmp/php.log
--FILE--
<?php
require 'helpers.inc';

/** Bytes of this process in RAM. */
function resident(): int
{
    return (int) explode(' ', file_get_contents('/proc/self/statm'))[1] * 4096;
}

/** Users are mapped, in all ways, while nothing changes. */
function calls(int $times): void
{
    for ($i = 0; $i < $times; $i++) {
        map_user_via_sendmail_access("user$i");
        if ($i % 100 === 0) {
            mailaffinity_node("user$i");
            mailaffinity_node("user$i", "nowhere$i");
            mailaffinity_nodes();
            mailaffinity_username_hash("user$i");
        }
    }
}

/** All files change, and break. */
function changes(int $times): void
{
    for ($i = 0; $i < $times; $i++) {
        mark_down(...[[], ['node1'], ['node1', 'node2', 'node3']][$i % 3]);
        calls(10);
        replace('nodes.toml', "broken = $i\n");
        replace('mailaffinity.toml', "broken = $i\n");
        calls(10);
        configure('hash:' . path('access'));
    }
    mark_down('node1');
}

$entries = '';
foreach (range(0, 49999) as $i) {
    $entries .= "QGRP:user$i@ node" . $i % 4 . "group\n";
}
makemap(path('access'), $entries);
configure('hash:' . path('access'));
changes(500);
calls(20000);
$before = [memory_get_usage(), resident()];
calls(1000000);
changes(500);
$after = [memory_get_usage(), resident()];
foreach (['PHP' => 0, 'the process' => 1] as $what => $i) {
    $growth = $after[$i] - $before[$i];
    check($growth < 1 << 20, "$what grew by $growth bytes");
}
check(filesize(path('php.log')) < 1 << 20, 'the log grew');
echo "done\n";
?>
--EXPECT--
done
