--TEST--
valgrind finds no invalid reads or writes and nothing lost
--FILE--
<?php
require 'helpers.inc';

$map = path('access');
makemap($map, "QGRP:user1@ node1group\nQGRP:user2@ nowhere\n");
$config = configure("hash:$map");
mark_down('node2');
$code = <<<'CODE'
    foreach (range(1, 200) as $i) {
        map_user_via_sendmail_access("user$i");
        map_user_via_sendmail_access("\0\xff@" . str_repeat("a", $i));
        mailaffinity_node("user$i");
        mailaffinity_node("user$i", "nowhere");
        mailaffinity_username_hash("user$i");
        mailaffinity_nodes();
        map_user_via_sendmail_access($i);
        map_user_via_sendmail_access($i / 3);
        map_user_via_sendmail_access([$i]);
        map_user_via_sendmail_access(str_repeat("a", 2000 + $i));
    }
    $config = ini_get("mailaffinity.config");
    rename($config, "$config.away");
    map_user_via_sendmail_access("user1");
    rename("$config.away", $config);
    ob_start();
    phpinfo(INFO_MODULES);
    ob_end_clean();
    echo map_user_via_sendmail_access("user1"), "\n";
    CODE;
$valgrind = [
    tool('valgrind'), '--quiet', '--error-exitcode=9', '--leak-check=full',
    '--show-leak-kinds=definite', '--errors-for-leak-kinds=definite', '--num-callers=30',
];
// PHP's own allocator would hide errors, and code that is unloaded its names.
$env = ['USE_ZEND_ALLOC' => '0', 'ZEND_DONT_UNLOAD_MODULES' => '1'];
foreach ([$config, path('missing.toml')] as $config) {
    if ($config === path('missing.toml')) {
        $code = 'echo map_user_via_sendmail_access("user1"), "\n"; try { mailaffinity_nodes(); } catch (MailaffinityException $e) {}';
    }
    $command = [...$valgrind, ...php(['mailaffinity.config' => $config, 'error_log' => path('php.log')]), '-r', $code];
    [$out, $stderr, $status] = run($command, $env);
    echo $out, $stderr, "$status\n";
}
?>
--EXPECT--
node1.example.org
0
localhost
0
