--TEST--
The access map's node, else the computed one, else the fallback; each step down is logged
--INI--
mailaffinity.config={PWD}/order_of_answers.tmp/mailaffinity.toml
mailaffinity.fallback=fallback.example.org
error_log={PWD}/order_of_answers.tmp/php.log
display_errors=1
log_errors=0
--FILE--
<?php
require 'helpers.inc';
error_reporting(0);

function show(string $what, string $user): void
{
    echo "$what: ", map_user_via_sendmail_access($user), "\n";
    foreach (newly_logged() as $line) {
        echo "  $line\n";
    }
}

$map = path('access');
configure("hash:$map");
makemap($map, <<<ACCESS
    QGRP:user1@	node1group
    QGRP:user2@	NODE1GROUP
    QGRP:user3@	nowhere
    From:example.net	REJECT

    ACCESS);
foreach (['user1', 'user2', 'user3', 'user4'] as $user) {
    echo "$user is computed to ", mailaffinity_node($user)['name'], "\n";
}
show('mapped', 'user1');
show('mapped, cases differ', 'User2@Example.org');
show('mapped, with detail', 'user2+work');
show('unknown queue group', 'user3');
show('no entry', 'user4');

mark_down('node1');
show('the mapped node is down', 'user1');
echo "  computed: ", mailaffinity_node('user1')['host'], "\n";
mark_down('node1', 'node4');
show('a stranger is down', 'user1');
replace('nodes.toml', "[node\n");
show('broken state, the last one stays', 'user1');
mark_down();
show('up again', 'user1');

unlink("$map.db");
show('no map', 'user1');
file_put_contents("$map.db", str_repeat("\0", 8192));
touch("$map.db", 1);
show('a map that is none', 'user1');
makemap($map, "QGRP:user1@ node2group\n");
show('a new map', 'user1');

mark_down('node1', 'node2', 'node3');
show('all nodes are down', 'user1');
mark_down('node2', 'node3');
show('one is up', 'user1');

$log = file_get_contents(path('php.log'));
check(!str_contains($log, 'user1') && !str_contains($log, 'user2'), 'the log names no user');
?>
--EXPECTF--
user1 is computed to node3
user2 is computed to node3
user3 is computed to node2
user4 is computed to node2
mapped: node1.example.org
mapped, cases differ: node1.example.org
mapped, with detail: node1.example.org
unknown queue group: node2.example.org
  mailaffinity: FOLDER/access.db: no node has the queue group "nowhere"; using the computed node
no entry: node2.example.org
  mailaffinity: FOLDER/access.db: no entry for a user; using the computed node
the mapped node is down: node3.example.org
  mailaffinity: FOLDER/access.db: node "node1" is down, but a user is mapped to it; using the computed node
  computed: node3.example.org
a stranger is down: node3.example.org
  mailaffinity: FOLDER/nodes.toml: node "node4" is down but not in the configuration; correct its name or remove it
broken state, the last one stays: node3.example.org
  mailaffinity: FOLDER/nodes.toml: not a node state: %s; the last good node state stays in force
up again: node1.example.org
no map: node3.example.org
  mailaffinity: cannot read access map FOLDER/access.db: No such file or directory %s; using the computed node
a map that is none: node3.example.org
  mailaffinity: cannot use access map FOLDER/access.db: %s; using the computed node
a new map: node2.example.org
all nodes are down: fallback.example.org
  mailaffinity: FOLDER/access.db: node "node2" is down, but a user is mapped to it; using the computed node
  mailaffinity: no node without a tag is up
  mailaffinity: there is no node for a user; using the fallback host fallback.example.org
one is up: node1.example.org
