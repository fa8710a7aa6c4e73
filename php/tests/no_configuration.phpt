--TEST--
Without a good configuration: the fallback host, an exception elsewhere, and the cause
--INI--
mailaffinity.config={PWD}/no_configuration.tmp/mailaffinity.toml
mailaffinity.fallback=fallback.example.org
error_log={PWD}/no_configuration.tmp/php.log
--FILE--
<?php
require 'helpers.inc';

function show(string $what): void
{
    echo "$what: ", map_user_via_sendmail_access('user1'), "\n";
    foreach (newly_logged() as $line) {
        echo "  $line\n";
    }
    foreach (['mailaffinity_node' => ['user1'], 'mailaffinity_username_hash' => ['user1'], 'mailaffinity_nodes' => []] as $function => $arguments) {
        try {
            $function(...$arguments);
            echo "  $function() answers\n";
        } catch (MailaffinityException $e) {
            $message = str_replace(folder(), 'FOLDER', $e->getMessage());
            check($e instanceof RuntimeException && $e->getCode() === 0 && $e->getPrevious() === null, get_class($e));
            check($e->getFile() === __FILE__ && $e->getTrace()[0]['function'] === $function, 'where it was thrown');
            echo "  $function() throws $message\n";
        }
    }
}

folder();
show('missing');
mkdir(path('mailaffinity.toml'));
show('a folder');
rmdir(path('mailaffinity.toml'));
replace('mailaffinity.toml', "strategy = \"rind\"\n");
show('broken');
replace('mailaffinity.toml', "username_hash = \"\0\xff\"\n");
show('not even text');
configure();
show('mended');
replace('mailaffinity.toml', "[[node]]\nname = \"node1\"\n");
show('broken later, the last good one stays');
unlink(path('mailaffinity.toml'));
show('removed');
configure(more: 'tag = "east"');
show('no node has the tag, the last good one stays');
var_dump(mailaffinity_node('user1', 'east'));

check(str_contains(new MailaffinityException('mine', 7), 'mine'), 'scripts can make one too');
?>
--EXPECTF--
missing: fallback.example.org
  mailaffinity: FOLDER/mailaffinity.toml: cannot read the configuration: No such file or directory %s; there is no good configuration to use
  mailaffinity: there is no node for a user; using the fallback host fallback.example.org
  mailaffinity_node() throws FOLDER/mailaffinity.toml: cannot read the configuration: No such file or directory %s; there is no good configuration to use
  mailaffinity_username_hash() throws FOLDER/mailaffinity.toml: cannot read the configuration: No such file or directory %s; there is no good configuration to use
  mailaffinity_nodes() throws FOLDER/mailaffinity.toml: cannot read the configuration: No such file or directory %s; there is no good configuration to use
a folder: fallback.example.org
  mailaffinity: FOLDER/mailaffinity.toml: cannot read the configuration: it is not a regular file; there is no good configuration to use
  mailaffinity_node() throws FOLDER/mailaffinity.toml: cannot read the configuration: it is not a regular file; there is no good configuration to use
  mailaffinity_username_hash() throws FOLDER/mailaffinity.toml: cannot read the configuration: it is not a regular file; there is no good configuration to use
  mailaffinity_nodes() throws FOLDER/mailaffinity.toml: cannot read the configuration: it is not a regular file; there is no good configuration to use
broken: fallback.example.org
  mailaffinity: FOLDER/mailaffinity.toml:1: %s; there is no good configuration to use
  mailaffinity_node() throws FOLDER/mailaffinity.toml:1: %s; there is no good configuration to use
  mailaffinity_username_hash() throws FOLDER/mailaffinity.toml:1: %s; there is no good configuration to use
  mailaffinity_nodes() throws FOLDER/mailaffinity.toml:1: %s; there is no good configuration to use
not even text: fallback.example.org
  mailaffinity: FOLDER/mailaffinity.toml: cannot read the configuration: %s; there is no good configuration to use
  mailaffinity_node() throws FOLDER/mailaffinity.toml: cannot read the configuration: %s; there is no good configuration to use
  mailaffinity_username_hash() throws FOLDER/mailaffinity.toml: cannot read the configuration: %s; there is no good configuration to use
  mailaffinity_nodes() throws FOLDER/mailaffinity.toml: cannot read the configuration: %s; there is no good configuration to use
mended: node3.example.org
  mailaffinity_node() answers
  mailaffinity_username_hash() answers
  mailaffinity_nodes() answers
broken later, the last good one stays: node3.example.org
  mailaffinity: FOLDER/mailaffinity.toml:1: %s; the last good configuration stays in force
  mailaffinity_node() answers
  mailaffinity_username_hash() answers
  mailaffinity_nodes() answers
removed: node3.example.org
  mailaffinity: FOLDER/mailaffinity.toml: cannot read the configuration: No such file or directory %s; the last good configuration stays in force
  mailaffinity_node() answers
  mailaffinity_username_hash() answers
  mailaffinity_nodes() answers
no node has the tag, the last good one stays: node3.example.org
  mailaffinity: FOLDER/mailaffinity.toml:%d: no node has the tag "east"; the last good configuration stays in force
  mailaffinity_node() answers
  mailaffinity_username_hash() answers
  mailaffinity_nodes() answers
NULL
