--TEST--
mailaffinity_node(), mailaffinity_username_hash(), mailaffinity_nodes() and their arguments
--INI--
mailaffinity.config={PWD}/functions.tmp/mailaffinity.toml
error_log={PWD}/functions.tmp/php.log
--FILE--
<?php
require 'helpers.inc';

replace('mailaffinity.toml', sprintf(<<<'TOML'
    username_hash = "%%Ln"
    tag = "east"
    node_state = "%s"
    [access_map]
    map = "text:/nonexistent/access"
    [[node]]
    name = "node1"
    address = "10.0.0.1"
    tag = "east"
    vhost_count = 50
    queue_group = "node1group"
    host = "node1.example.org"
    [[node]]
    name = "node2"
    address = "2001:DB8:0::2"
    [[node]]
    name = "node3"
    address = "10.0.0.3"
    tag = "east"
    TOML, path('nodes.toml')));
mark_down('node3');

foreach (mailaffinity_nodes() as $i => $node) {
    echo "$i ", json_encode($node, JSON_UNESCAPED_SLASHES), "\n";
}
echo json_encode(mailaffinity_node('user1')), "\n";
echo json_encode(mailaffinity_node('user1', null)), "\n";
echo json_encode(mailaffinity_node('user1', 'east')), "\n";
echo json_encode(mailaffinity_node(tag: '', username: 'user1')), "\n";
echo json_encode([mailaffinity_node('user1', 'EAST'), mailaffinity_node('user1', "east\0"), mailaffinity_node('user1', "\xff")]), "\n";
// printf %s user1 | md5sum: 24c9e15e...
var_dump(mailaffinity_username_hash('user1') === 0x24c9e15e, mailaffinity_username_hash('User1@example.org') === 0x24c9e15e);
echo map_user_via_sendmail_access('user1'), "\n";
mark_down('node2', 'node3');
var_dump(mailaffinity_node('user1', ''));
// An IPv6 address as fsockopen() takes it.
mark_down('node1', 'node3');
replace('mailaffinity.toml', str_replace('tag = "east"', '', file_get_contents(path('mailaffinity.toml'))));
echo map_user_via_sendmail_access('user1'), ' ', mailaffinity_node('user1')['host'], "\n";

foreach (['map_user_via_sendmail_access', 'mailaffinity_node', 'mailaffinity_username_hash'] as $function) {
    foreach ($function === 'map_user_via_sendmail_access' ? [] : [1, 1.5, true, null, [], new stdClass] as $argument) {
        try {
            $function($argument);
            echo "FAILED: $function() takes ", get_debug_type($argument), "\n";
        } catch (TypeError $e) {
        }
    }
    foreach ([[], ['a', 'b', 'c']] as $arguments) {
        try {
            $function(...$arguments);
            echo "FAILED: $function() takes ", count($arguments), " arguments\n";
        } catch (ArgumentCountError $e) {
        }
    }
}
echo "done\n";
?>
--EXPECT--
0 {"name":"node1","address":"10.0.0.1","host":"node1.example.org","queue_group":"node1group","tag":"east","vhost_count":50,"state":"up","since":null,"reason":null}
1 {"name":"node2","address":"2001:db8::2","host":"2001:db8::2","queue_group":null,"tag":"","vhost_count":100,"state":"up","since":null,"reason":null}
2 {"name":"node3","address":"10.0.0.3","host":"10.0.0.3","queue_group":null,"tag":"east","vhost_count":100,"state":"down","since":"2026-11-23T20:45:00Z","reason":"new disks"}
{"name":"node1","address":"10.0.0.1","host":"node1.example.org","queue_group":"node1group","tag":"east"}
{"name":"node1","address":"10.0.0.1","host":"node1.example.org","queue_group":"node1group","tag":"east"}
{"name":"node1","address":"10.0.0.1","host":"node1.example.org","queue_group":"node1group","tag":"east"}
{"name":"node2","address":"2001:db8::2","host":"2001:db8::2","queue_group":null,"tag":""}
[null,null,null]
bool(true)
bool(true)
node1.example.org
NULL
[2001:db8::2] 2001:db8::2
done
