--TEST--
Changes on disk are noticed by a running process
--INI--
mailaffinity.config={PWD}/changes.tmp/mailaffinity.toml
error_log={PWD}/changes.tmp/php.log
--FILE--
<?php
require 'helpers.inc';

function show(string $what): void
{
    echo "$what: ", map_user_via_sendmail_access('user1'), "\n";
}

/** As show(), once it is another host than this: a file that is written in place must be left alone for a moment. */
function show_after(string $host, string $what): void
{
    for ($tries = 0; map_user_via_sendmail_access('user1') === $host && $tries < 1000; $tries++) {
        usleep(20_000);
    }
    show($what);
}

$config = configure();
show('computed');
file_put_contents($config, str_replace('node3.example.org', 'moved.example.org', file_get_contents($config)));
show_after('node3.example.org', 'configuration written in place');
configure();
show('configuration replaced');
mark_down('node3');
show('state appears');
file_put_contents(path('nodes.toml'), "# all are up\n");
show_after('node2.example.org', 'state written in place');
mark_down('node3');
show('state replaced');
unlink(path('nodes.toml'));
show('state removed');

$map = path('access');
file_put_contents($map, "QGRP:user1@\tnode1group\n");
configure("text:$map");
show('a text map');
file_put_contents($map, "QGRP:user1@\tnode2group\n");
show('written in place');
replace('access', "QGRP:user1@\tnode1group\n");
show('replaced');

makemap($map, "QGRP:user1@ node2group\n");
configure("hash:$map");
show('a hash map');
makemap($map, "QGRP:user1@ node1group\n");
show('made again in place');
makemap("$map.new", "QGRP:user1@ node2group\n");
rename("$map.new.db", "$map.db");
show('replaced');
var_dump(logged());
?>
--EXPECT--
computed: node3.example.org
configuration written in place: moved.example.org
configuration replaced: node3.example.org
state appears: node2.example.org
state written in place: node3.example.org
state replaced: node2.example.org
state removed: node3.example.org
a text map: node1.example.org
written in place: node2.example.org
replaced: node1.example.org
a hash map: node2.example.org
made again in place: node1.example.org
replaced: node2.example.org
array(0) {
}
