--TEST--
What is published of the access map comes before the map, without a lock
--INI--
mailaffinity.config={PWD}/published.tmp/mailaffinity.toml
error_log={PWD}/published.tmp/php.log
display_errors=1
log_errors=0
--FILE--
<?php
require 'helpers.inc';

function show(string $what, string $user = 'user1'): void
{
    echo "$what: ", map_user_via_sendmail_access($user), "\n";
    foreach (newly_logged() as $line) {
        echo "  $line\n";
    }
}

/** Publishes these answers by way of rename, as an update does. */
function publish(string $text): void
{
    run([tool('cdb'), '-c', '-m', path('new.cdb')], input: $text, check: true);
    rename(path('new.cdb'), path('answers.cdb'));
}

/** How many files this process has open. */
function open_files(): int
{
    return count(scandir('/proc/self/fd'));
}

$map = path('access');
$configuration = file_get_contents(configure("hash:$map"));
$table = "[access_map]\npublished = \"" . path('answers.cdb') . "\"\n";
replace('mailaffinity.toml', str_replace("[access_map]\n", $table, $configuration));
makemap($map, "QGRP:user1@ node2group\n");
echo 'user1 is computed to ', mailaffinity_node('user1')['name'], "\n";

show('not published yet');
publish("qgrp:user1@ node1group\nqgrp:user2@example.org NODE2GROUP\n");
show('published');
show('with detail and domain', 'User2+box@example.org');
show('no entry', 'user3');

// Somebody locks all that there is.
$locks = [];
foreach ([path('answers.cdb'), "$map.db"] as $file) {
    $locks[] = $lock = fopen($file, 'r');
    check(flock($lock, LOCK_EX), "lock $file");
}
show('locked');

$files = open_files();
for ($i = 0; $i < 100; $i++) {
    $node = $i % 3 + 1;
    publish("qgrp:user1@ node{$node}group\n");
    $host = map_user_via_sendmail_access('user1');
    check($host === "node$node.example.org", "$host after $i changes");
}
check(open_files() === $files, 'no file stays open');

mark_down('node1');
show('the node is down');
mark_down();
unset($lock);
$locks = [];
replace('answers.cdb', str_repeat('x', 5000));
show('damaged');
unlink(path('answers.cdb'));
unlink("$map.db");
show('all is gone');
publish("qgrp:user1@ node1group\n");
show('published anew');
?>
--EXPECTF--
user1 is computed to node3
not published yet: node2.example.org
  mailaffinity: cannot read the published answers FOLDER/answers.cdb: No such file or directory %s; using the access map
published: node1.example.org
with detail and domain: node2.example.org
no entry: node2.example.org
  mailaffinity: FOLDER/answers.cdb: no entry for a user; using the computed node
locked: node1.example.org
the node is down: node3.example.org
  mailaffinity: FOLDER/answers.cdb: node "node1" is down, but a user is mapped to it; using the computed node
damaged: node2.example.org
  mailaffinity: the published answers FOLDER/answers.cdb are damaged: %s; run "mailaffinity update --force"; using the access map
all is gone: node3.example.org
  mailaffinity: cannot read access map FOLDER/access.db: No such file or directory %s; using the computed node
published anew: node1.example.org
