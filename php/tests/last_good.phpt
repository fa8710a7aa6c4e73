--TEST--
What breaks reaches no new process: it has the last good copies
--FILE--
<?php
require 'helpers.inc';

/** What a new process answers and logs. */
function show(string $what): void
{
    $directives = ['mailaffinity.config' => path('mailaffinity.toml'), 'error_log' => path('php.log')];
    [$host, $stderr] = run_php('echo map_user_via_sendmail_access("user1");', $directives);
    echo "$what: $host$stderr\n";
    foreach (newly_logged() as $line) {
        echo '  ', preg_replace('/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/', 'TIME', $line), "\n";
    }
}

configure();
mark_down('node3');
show('good');
replace('mailaffinity.toml', 'nonsense');
show('broken, without a copy');

configure();
$copies = [keep('mailaffinity.toml'), keep('nodes.toml')];
replace('mailaffinity.toml', 'nonsense');
show('broken');
unlink(path('mailaffinity.toml'));
show('gone');
replace('nodes.toml', '[node');
show('the node state too');
configure();
show('the node state alone');
file_put_contents(path('nodes.toml'), '');
show('the node state is emptied');
unlink(path('nodes.toml'));
show('no node state is not broken');

replace('nodes.toml', '[node');
replace('mailaffinity.toml', 'nonsense');
array_map(fn ($copy) => chmod($copy, 0666), $copies);
show('copies that anybody could have written');
array_map(fn ($copy) => replace(basename($copy), 'nonsense'), $copies);
show('broken copies');
?>
--EXPECTF--
good: node2.example.org
broken, without a copy: localhost
  mailaffinity: FOLDER/mailaffinity.toml:1: %s; there is no good configuration to use
  mailaffinity: there is no node for a user; using the fallback host localhost
broken: node2.example.org
  mailaffinity: FOLDER/mailaffinity.toml:1: %s; the last good copy FOLDER/mailaffinity.toml.last-good of TIME is in force
gone: node2.example.org
  mailaffinity: FOLDER/mailaffinity.toml: cannot read the configuration: %s; the last good copy FOLDER/mailaffinity.toml.last-good of TIME is in force
the node state too: node2.example.org
  mailaffinity: FOLDER/nodes.toml: not a node state: line 1: %s; the last good copy FOLDER/nodes.toml.last-good of TIME is in force
the node state alone: node2.example.org
the node state is emptied: node2.example.org
  mailaffinity: FOLDER/nodes.toml: not a node state: it is empty; %s; the last good copy FOLDER/nodes.toml.last-good of TIME is in force
no node state is not broken: node3.example.org
copies that anybody could have written: localhost
  mailaffinity: FOLDER/mailaffinity.toml:1: %s; its last good copy cannot be used: others than its owner may write it; there is no good configuration to use
broken copies: localhost
  mailaffinity: FOLDER/mailaffinity.toml:1: %s; its last good copy cannot be used: FOLDER/mailaffinity.toml.last-good:1: %s; there is no good configuration to use
