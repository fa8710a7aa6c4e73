--TEST--
PHP-FPM: each pool has its own configuration, and its workers notice changes
--FILE--
<?php
require 'helpers.inc';
require 'fastcgi.inc';

$page = path('page.php');
file_put_contents($page, '<?php error_reporting(0); ini_set("display_errors", "1"); echo getmypid(), " ", map_user_via_sendmail_access($_GET["user"] ?? "");');
$info = path('info.php');
file_put_contents($info, '<?php phpinfo(INFO_MODULES);');

$one = configure(name: 'one.toml');
$two = replace('two.toml', "[[node]]\nname = \"only\"\naddress = \"10.0.0.9\"\n");
$sockets = start_fpm([
    'one' => ['mailaffinity.config' => $one, 'mailaffinity.fallback' => 'one.example.org', 'error_log' => path('php.log')],
    'two' => ['mailaffinity.config' => $two, 'mailaffinity.fallback' => '<b>'],
    'none' => ['mailaffinity.config' => path('missing.toml')],
]);

$workers = [];
function show(string $what, string $pool, array $more = []): void
{
    global $sockets, $page, $workers;
    [$body, $stderr] = request($sockets[$pool], $page, ['user' => 'user1'], $more);
    [$worker, $host] = explode(' ', $body, 2) + [1 => '?'];
    check(($workers[$pool] ??= $worker) === $worker, 'another worker');
    echo "$what: $host\n";
    foreach (newly_logged() as $line) {
        echo "  $line\n";
    }
    foreach (array_slice(preg_split('/(; )?PHP message: /', trim($stderr)), 1) as $line) {
        echo '  to the web server: ', str_replace(folder(), 'FOLDER', $line), "\n";
    }
}

show('pool one', 'one');
show('pool two', 'two');
show('a pool without a configuration', 'none');
mark_down('node3');
show('a node is down', 'one');
replace('one.toml', 'nonsense');
show('broken', 'one');
configure(name: 'one.toml');
mark_down();
show('mended', 'one');
replace('two.toml', "nonsense\n");
show('pool two broken', 'two');
replace('two.toml', "[[node]]\nname = \"only\"\naddress = \"10.0.0.8\"\n");
show('pool two mended', 'two');
file_put_contents($two, "[[node]]\nname = \"only\"\naddress = \"10.0.0.7\"\n");
// A file that is written in place must be left alone for a moment.
for ($tries = 0; str_contains(request($sockets['two'], $page, ['user' => 'user1'])[0], '10.0.0.8') && $tries < 1000; $tries++) {
    usleep(20_000);
}
show('pool two changed in place', 'two');
show('a configuration for the request', 'none', ['PHP_ADMIN_VALUE' => "mailaffinity.config=$one"]);
show('another one', 'none', ['PHP_ADMIN_VALUE' => "mailaffinity.config=$two"]);

[$html] = request($sockets['two'], $info);
preg_match('~name="module_mailaffinity".*?</table>~s', $html, $match);
check(str_contains($match[0], '&lt;b&gt;'), 'phpinfo() escapes');
check(!str_contains($match[0], '<b>'), 'phpinfo() escapes');
check(str_contains($match[0], 'only'), "phpinfo() of the pool: $match[0]");

foreach (hostile_usernames() as $user) {
    if (strlen($user) < 10000) {
        [$body] = request($sockets['one'], $page, ['user' => $user]);
        $host = strlen($user) <= LONGEST ? 'node[123]' : 'one';
        check(preg_match("/^\\d+ $host\\.example\\.org$/D", $body) === 1, substr(urlencode($user), 0, 60) . " gets $body");
    }
}
echo "done\n";
?>
--EXPECTF--
pool one: node3.example.org
pool two: 10.0.0.9
a pool without a configuration: localhost
  to the web server: mailaffinity: FOLDER/missing.toml: cannot read the configuration: No such file or directory %s; there is no good configuration to use
  to the web server: mailaffinity: there is no node for a user; using the fallback host localhost
a node is down: node2.example.org
broken: node2.example.org
  mailaffinity: FOLDER/one.toml:1: %s; the last good configuration stays in force
mended: node3.example.org
pool two broken: 10.0.0.9
  to the web server: mailaffinity: FOLDER/two.toml:1: %s; the last good configuration stays in force
pool two mended: 10.0.0.8
pool two changed in place: 10.0.0.7
a configuration for the request: node3.example.org
another one: 10.0.0.7
done
