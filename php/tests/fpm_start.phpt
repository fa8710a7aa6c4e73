--TEST--
PHP-FPM: new workers have what it read at its start, but for what was kept since
--FILE--
<?php
require 'helpers.inc';
require 'fastcgi.inc';

$page = path('page.php');
file_put_contents($page, '<?php echo getmypid(), " ", map_user_via_sendmail_access("user1");');
$config = configure();
$other = configure(name: 'other.toml');
[$pool, $own] = array_values(start_fpm([
    'pool' => ['error_log' => path('php.log')],
    'own' => ['error_log' => path('php.log'), 'mailaffinity.config' => $other],
], once: true, ini: ['mailaffinity.config' => $config]));

$workers = [];
function show(string $what, string $socket): void
{
    global $page, $workers;
    [$worker, $host] = explode(' ', request($socket, $page)[0]);
    check(!isset($workers[$worker]), 'the same worker');
    $workers[$worker] = true;
    echo "$what: $host\n";
    foreach (newly_logged() as $line) {
        echo '  ', preg_replace('/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/', 'TIME', $line), "\n";
    }
}

show('good', $pool);
replace('mailaffinity.toml', 'nonsense');
show('broken', $pool);
show('broken', $pool);
configure();
mark_down('node3');
show('mended, and a node is down', $pool);
keep('nodes.toml');
replace('nodes.toml', '[node');
show('the node state is broken', $pool);
unlink(path('nodes.toml.last-good'));
show('and was not kept', $pool);

// What a pool sets is not known at the start.
mark_down();
show('a pool of its own', $own);
replace('other.toml', 'nonsense');
show('broken', $own);
configure(name: 'other.toml');
keep('other.toml');
replace('other.toml', 'nonsense');
show('broken, but kept', $own);
?>
--EXPECTF--
good: node3.example.org
broken: node3.example.org
  mailaffinity: FOLDER/mailaffinity.toml:1: %s; the last good configuration stays in force
broken: node3.example.org
mended, and a node is down: node2.example.org
the node state is broken: node2.example.org
  mailaffinity: FOLDER/nodes.toml: not a node state: line 1: %s; the last good copy FOLDER/nodes.toml.last-good of TIME is in force
and was not kept: node3.example.org
  mailaffinity: FOLDER/nodes.toml: not a node state: line 1: %s; the last good node state stays in force
a pool of its own: node3.example.org
broken: localhost
  mailaffinity: FOLDER/other.toml:1: %s; there is no good configuration to use
  mailaffinity: there is no node for a user; using the fallback host localhost
broken, but kept: node3.example.org
  mailaffinity: FOLDER/other.toml:1: %s; the last good copy FOLDER/other.toml.last-good of TIME is in force
