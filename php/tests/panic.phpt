--TEST--
A bug in the module does not keep users from logging in
--FILE--
<?php
require 'helpers.inc';

$directives = ['mailaffinity.config' => configure(), 'mailaffinity.fallback' => 'fallback.example.org', 'error_log' => path('php.log')];
// Rust's SystemTime::now() panics when the system cannot tell the time.
$code = <<<'CODE'
    error_reporting(-1);
    // What PHP has read at its start may count, or may have been too new to.
    touch(ini_get("mailaffinity.config"), 2);
    putenv("TEST_CLOCK_FAILS=1");
    echo map_user_via_sendmail_access("user1"), "\n";
    try {
        mailaffinity_nodes();
    } catch (MailaffinityException $e) {
        echo $e->getMessage(), "\n";
    }
    phpinfo(INFO_MODULES);
    putenv("TEST_CLOCK_FAILS");
    echo map_user_via_sendmail_access("user1"), "\n";
    touch(ini_get("mailaffinity.config"), 1);
    putenv("TEST_CLOCK_FAILS=1");
    echo map_user_via_sendmail_access("user1"), "\n";
    putenv("TEST_CLOCK_FAILS");
    echo map_user_via_sendmail_access("user1"), "\n";
    CODE;
[$out, $stderr, $status] = run_php_with_clock($code, $directives);
echo preg_replace('/^phpinfo.*^(mailaffinity\n.*?)\n\nDirective.*?\n\n.*?^(\w+\.example)/ms', "$1\n$2", $out), $stderr, "$status\n";
print_r(logged());
?>
--EXPECTF--
fallback.example.org
internal error at %s:%d; please report it
mailaffinity

User/node affinity => enabled
Version => 0.1.0
Mapping rules => Dovecot Director 2.3.19.1 (ring), 2.2.36 (modulo)
Configuration => %s/mailaffinity.toml
Configuration is good => no
Problem => internal error at %s:%d; please report it
Fallback host => fallback.example.org
node3.example.org
fallback.example.org
node3.example.org
0
Array
(
    [0] => mailaffinity: internal error at %s:%d; please report it
    [1] => mailaffinity: there is no node for a user; using the fallback host fallback.example.org
)
