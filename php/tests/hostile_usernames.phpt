--TEST--
Any username gets a host; nothing is printed, thrown or warned of, and the log names no user
--INI--
mailaffinity.config={PWD}/hostile_usernames.tmp/mailaffinity.toml
error_log={PWD}/hostile_usernames.tmp/php.log
display_errors=1
--FILE--
<?php
require 'helpers.inc';

set_error_handler(function (int $level, string $message) {
    echo "FAILED: warning: $message\n";
    return true;
});

/** Maps all users; returns the hosts and how many users each has. */
function map_all(): array
{
    $hosts = [];
    $users = 0;
    foreach (hostile_usernames() as $user) {
        ob_start();
        $host = map_user_via_sendmail_access($user);
        $printed = ob_get_clean();
        $short = substr(urlencode($user), 0, 60);
        check($printed === '', "$printed for $short");
        check(is_host($host), "$host for $short");
        check(map_user_via_sendmail_access($user) === $host, "$short moves");
        check(strlen($user) <= LONGEST || $host === 'localhost', "$host for $short");
        $hosts[$host] = true;
        $users++;
    }
    check($users > 500, "$users users");
    ksort($hosts);
    return array_keys($hosts);
}

echo "no configuration\n";
folder();
print_r(map_all());
print_r(newly_logged());

echo "no map\n";
configure();
print_r(map_all());
print_r(newly_logged());
foreach (hostile_usernames() as $user) {
    if (strlen($user) > LONGEST) {
        check(mailaffinity_node($user) === null, 'a name that is too long');
        try {
            mailaffinity_username_hash($user);
            echo "FAILED: a hash\n";
        } catch (MailaffinityException $e) {
            check($e->getMessage() === "a user's name is longer than 1023 bytes", $e->getMessage());
        }
        continue;
    }
    $hash = mailaffinity_username_hash($user);
    check($hash === hexdec(substr(md5(strtolower($user)), 0, 8)), 'hash of ' . substr(urlencode($user), 0, 60));
    check(mailaffinity_node($user)['host'] === map_user_via_sendmail_access($user), 'the computed node');
    check(mailaffinity_node('user1', $user === '' ? 'x' : $user) === null, 'a tag that no node has');
}

echo "with a map\n";
$map = path('access');
makemap($map, "QGRP:a@ node1group\nQGRP:b node2group\nQGRP:c node3group\n");
configure("hash:$map");
print_r(map_all());
print_r(newly_logged());
?>
--EXPECTF--
no configuration
Array
(
    [0] => localhost
)
Array
(
    [0] => mailaffinity: FOLDER/mailaffinity.toml: cannot read the configuration: No such file or directory %s; there is no good configuration to use
    [1] => mailaffinity: there is no node for a user; using the fallback host localhost
)
no map
Array
(
    [0] => localhost
    [1] => node1.example.org
    [2] => node2.example.org
    [3] => node3.example.org
)
Array
(
    [0] => mailaffinity: a user's name is longer than 1023 bytes
)
with a map
Array
(
    [0] => localhost
    [1] => node1.example.org
    [2] => node2.example.org
    [3] => node3.example.org
)
Array
(
    [0] => mailaffinity: FOLDER/access.db: no entry for a user; using the computed node
)
