--TEST--
The table in phpinfo()
--INI--
mailaffinity.config={PWD}/phpinfo.tmp/mailaffinity.toml
error_log={PWD}/phpinfo.tmp/php.log
--FILE--
<?php
require 'helpers.inc';

function table(): void
{
    ob_start();
    phpinfo(INFO_MODULES);
    preg_match('/^mailaffinity\n\n(.*?)\n\n\w+\n\n/ms', ob_get_clean() . "\n\nend\n\n", $match);
    echo str_replace(folder(), 'FOLDER', $match[1]), "\n\n";
}

folder();
table();
replace('mailaffinity.toml', "surprise = 1\n");
table();
configure('text:/etc/mail/access', "strategy = \"modulo\"\nusername_hash = \"%Ln\"\n");
mark_down('node2');
table();
unlink(path('mailaffinity.toml'));
replace('nodes.toml', 'nonsense');
table();
var_dump(logged());

[$out] = run([...php(['mailaffinity.fallback' => 'a b']), '--ri', 'mailaffinity']);
echo implode("\n", preg_grep('/Fallback|Problem => mail/', explode("\n", $out))), "\n";
?>
--EXPECTF--
User/node affinity => enabled
Version => 0.1.0
Mapping rules => Dovecot Director 2.3.19.1 (ring), 2.2.36 (modulo)
Configuration => FOLDER/mailaffinity.toml
Configuration is good => no
Problem => FOLDER/mailaffinity.toml: cannot read the configuration: No such file or directory %s; there is no good configuration to use
Fallback host => localhost

Directive => Local Value => Master Value
mailaffinity.config => FOLDER/mailaffinity.toml => FOLDER/mailaffinity.toml
mailaffinity.fallback => localhost => localhost

User/node affinity => enabled
Version => 0.1.0
Mapping rules => Dovecot Director 2.3.19.1 (ring), 2.2.36 (modulo)
Configuration => FOLDER/mailaffinity.toml
Configuration is good => no
Problem => FOLDER/mailaffinity.toml:1: %s; there is no good configuration to use
Fallback host => localhost

Directive => Local Value => Master Value
mailaffinity.config => FOLDER/mailaffinity.toml => FOLDER/mailaffinity.toml
mailaffinity.fallback => localhost => localhost

User/node affinity => enabled
Version => 0.1.0
Mapping rules => Dovecot Director 2.3.19.1 (ring), 2.2.36 (modulo)
Configuration => FOLDER/mailaffinity.toml
Configuration is good => yes
Strategy => modulo
Username hash => %Ln
Nodes up => node1, node3
Nodes down => node2
Access map => text:/etc/mail/access
Fallback host => localhost

Directive => Local Value => Master Value
mailaffinity.config => FOLDER/mailaffinity.toml => FOLDER/mailaffinity.toml
mailaffinity.fallback => localhost => localhost

User/node affinity => enabled
Version => 0.1.0
Mapping rules => Dovecot Director 2.3.19.1 (ring), 2.2.36 (modulo)
Configuration => FOLDER/mailaffinity.toml
Configuration is good => no
Problem => FOLDER/mailaffinity.toml: cannot read the configuration: No such file or directory %s; the last good configuration stays in force
Problem => FOLDER/nodes.toml: not a node state: %s; the last good node state stays in force
Strategy => modulo
Username hash => %Ln
Nodes up => node1, node3
Nodes down => node2
Access map => text:/etc/mail/access
Fallback host => localhost

Directive => Local Value => Master Value
mailaffinity.config => FOLDER/mailaffinity.toml => FOLDER/mailaffinity.toml
mailaffinity.fallback => localhost => localhost

array(0) {
}
Fallback host => localhost
Problem => mailaffinity.fallback: "a b" is not a bare host name or address (without port, blanks or brackets)
