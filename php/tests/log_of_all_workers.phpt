--TEST--
All workers of a web server log a message once a minute together, by a file that nobody can turn against them
--FILE--
<?php
require 'helpers.inc';
require 'fastcgi.inc';

$page = path('page.php');
file_put_contents($page, '<?php echo map_user_via_sendmail_access("user1");');
$config = path('missing.toml');
$log = path('php.log');

/** The lines of the log about the configuration that is missing; it is empty then. */
function lines(): array
{
    global $log;
    $lines = preg_grep('/cannot read the configuration/', file_exists($log) ? file($log, FILE_IGNORE_NEW_LINES) : []);
    remove($log);
    return array_map(fn ($line) => preg_match('/ \(\d+ times more .*/', $line, $match) ? $match[0] : '', array_values($lines));
}

// Each worker serves one request, in two pools at once.
$started = time();
$sockets = start_fpm([
    'one' => ['error_log' => $log],
    'two' => ['error_log' => $log],
], once: true, ini: ['mailaffinity.config' => $config]);
for ($i = 0; $i < 10; $i++) {
    foreach ($sockets as $socket) {
        [$host] = request($socket, $page);
        check($host === 'localhost', "FPM answers $host");
    }
}
$lines = count(lines());
check(1 <= $lines && $lines <= 1 + intdiv(time() - $started, 60), "20 workers of FPM log $lines lines");

mkdir(path('tmp'));

/** Runs a page under CGI at this second. */
function cgi(int $second): void
{
    global $page, $config, $log;
    $command = [tool('php-cgi' . PHP_MAJOR_VERSION . '.' . PHP_MINOR_VERSION, 'php-cgi'), ...array_slice(php([
        'mailaffinity.config' => $config, 'error_log' => $log, 'sys_temp_dir' => path('tmp'), 'cgi.force_redirect' => 0,
    ]), 1)];
    [$out, $stderr] = run($command, [
        'SCRIPT_FILENAME' => $page, 'REQUEST_METHOD' => 'GET', 'GATEWAY_INTERFACE' => 'CGI/1.1',
        'TEST_CLOCK' => $second, 'LD_PRELOAD' => preloaded_clock(),
    ]);
    check(str_ends_with($out, "\r\n\r\nlocalhost"), "CGI prints $out$stderr");
}

foreach ([1000, 1000, 1059, 1060, 1060, 5000] as $second) {
    cgi($second);
}
echo implode(",", lines()), "\n";
// From before the system started anew.
cgi(10);
cgi(10);
echo count(lines()), " after a start\n";
$file = path('tmp/mailaffinity-' . fileowner('/proc/self'));
check((fileperms($file) & 07777) === 0600, 'others may read it');

// Whoever comes first.
$victim = path('victim');
$hostile = [
    'a link' => fn () => symlink($victim, $file),
    'a link to nothing' => fn () => symlink(path('made'), $file),
    'another name of a file' => fn () => link($victim, $file),
    'a text' => fn () => file_put_contents($file, 'precious') && chmod($file, 0600),
    'open to all' => fn () => touch($file) && chmod($file, 0666),
    'a pipe' => fn () => run([tool('mkfifo'), '-m', '600', $file], check: true),
    'a folder' => fn () => mkdir($file),
];
if (fileowner('/proc/self') === 0) {
    $hostile["another's"] = fn () => touch($file) && chmod($file, 0600) && chown($file, 1);
}
foreach ($hostile as $what => $put) {
    remove($file);
    file_put_contents($victim, 'precious');
    chmod($victim, 0600);
    $put();
    $before = serialize([@file_get_contents($victim), is_file($file) ? file_get_contents($file) : filetype($file)]);
    cgi(1000);
    cgi(1000);
    $after = serialize([@file_get_contents($victim), is_file($file) ? file_get_contents($file) : filetype($file)]);
    check($before === $after && !file_exists(path('made')), "$what: $after");
    check(count(lines()) === 2, "$what: each process logs for itself");
}
remove($file);
cgi(1000);
// A program of the web server's own user keeps the lock.
$locked = fopen($file, 'r');
flock($locked, LOCK_EX);
cgi(1001);
fclose($locked);
check(count(lines()) === 2, 'a lock keeps nobody waiting, nor a message back');
// Half of it, and anything else.
foreach ([substr(file_get_contents($file), 0, -5), file_get_contents($file) . random_bytes(10000)] as $text) {
    file_put_contents($file, $text);
    cgi(1002);
    cgi(1002);
    check(count(lines()) <= 1, 'what is damaged is mended');
}
check(filesize($file) < 3000, 'it grows');
?>
--EXPECT--
, (2 times more since it was last logged), (1 times more since it was last logged)
1 after a start
