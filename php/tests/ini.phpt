--TEST--
The directives are the system's: no script can set them
--INI--
mailaffinity.config={PWD}/ini.tmp/mailaffinity.toml
mailaffinity.fallback=imap.example.org
--FILE--
<?php
require 'helpers.inc';

foreach (['mailaffinity.config', 'mailaffinity.fallback'] as $name) {
    var_dump(@ini_set($name, 'changed'));
    check(ini_get($name) !== 'changed', 'it was set');
    check(ini_get_all('mailaffinity')[$name]['access'] === INI_SYSTEM, 'it is PHP_INI_SYSTEM');
}
var_dump(ini_get('mailaffinity.fallback'));
configure();
var_dump(mailaffinity_nodes()[0]['name']);

// The defaults, and the configuration's default again where the directive is empty.
foreach ([[], ['mailaffinity.config' => '']] as $directives) {
    [$out] = run_php('var_dump(ini_get("mailaffinity.config"), ini_get("mailaffinity.fallback")); phpinfo(INFO_MODULES);', $directives);
    echo implode("\n", preg_grep('/^(string|Configuration =>)/', explode("\n", $out))), "\n";
}
// A relative path would be another file for each script.
$code = 'echo map_user_via_sendmail_access("user1"), "\n"; try { mailaffinity_nodes(); } catch (MailaffinityException $e) { echo $e->getMessage(), "\n"; }';
[$out] = run_php($code, ['mailaffinity.config' => 'here.toml']);
echo $out;
?>
--EXPECT--
bool(false)
bool(false)
string(16) "imap.example.org"
string(5) "node1"
string(22) "/etc/mailaffinity.toml"
string(9) "localhost"
Configuration => /etc/mailaffinity.toml
string(0) ""
string(9) "localhost"
Configuration => /etc/mailaffinity.toml
localhost
mailaffinity.config: here.toml is not an absolute path
