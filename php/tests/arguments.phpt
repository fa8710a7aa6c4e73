--TEST--
map_user_via_sendmail_access() takes what a form can post and what PHP makes of it, and throws nothing
--INI--
mailaffinity.config={PWD}/arguments.tmp/mailaffinity.toml
error_log={PWD}/arguments.tmp/php.log
mailaffinity.fallback=fallback.example.org
display_errors=1
--FILE--
<?php
declare(strict_types=1);
require 'helpers.inc';

class Name
{
    public function __toString(): string
    {
        throw new Exception('from the program');
    }
}

$map = path('access');
makemap($map, "QGRP:1234@ node1group\nQGRP:1.5@ node2group\nQGRP:1@ node3group\n");
configure("hash:$map");

// Scalars count as PHP's own functions take them (where types are not strict). Of NAN, PHP 8.5
// warns here, and the function does not.
$scalars = [1234, 1.5, -0.0, 1e100, 0.1 + 0.2, NAN, -INF, PHP_INT_MIN, true, false];
// What PHP makes of a name of digits that was the key of an array.
array_push($scalars, ...array_keys(['1234' => 'a form']));
foreach ($scalars as $scalar) {
    $host = map_user_via_sendmail_access($scalar);
    check($host === map_user_via_sendmail_access(@(string) $scalar), var_export($scalar, true) . " gets $host");
    foreach ([-1, 3, 17] as $precision) {
        ini_set('precision', (string) $precision);
        check(map_user_via_sendmail_access($scalar) === map_user_via_sendmail_access(@(string) $scalar), "with $precision digits");
    }
    ini_restore('precision');
}
echo implode(' ', array_map(map_user_via_sendmail_access(...), [1234, 1.5, true])), "\n";
$reference = &$scalars[0];
echo map_user_via_sendmail_access($reference), "\n";
newly_logged();

// As ?user[]=1&user[x][]=2 posts it.
parse_str('user[]=1&user[x][]=2', $posted);
$more = [$posted['user'], [], null, new stdClass, new Name, fn () => 1, STDIN, new ArrayObject([1])];
foreach ($more as $value) {
    ob_start();
    $host = map_user_via_sendmail_access($value);
    check(ob_get_clean() === '', 'it prints');
    check($host === 'fallback.example.org', get_debug_type($value) . " gets $host");
}
print_r(newly_logged());
?>
--EXPECT--
node1.example.org node2.example.org node3.example.org
node1.example.org
Array
(
    [0] => mailaffinity: a username is an array, and no text
    [1] => mailaffinity: there is no node for a user; using the fallback host fallback.example.org
    [2] => mailaffinity: a username is null, and no text
    [3] => mailaffinity: a username is an object, and no text
    [4] => mailaffinity: a username is a resource, and no text
)
