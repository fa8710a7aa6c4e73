<?php
// Usage: threads.php PROGRAM CHANGES [COMMAND...]
//
// Runs PROGRAM (threads.c), by COMMAND (Valgrind) if one is named, and rewrites
// configurations, node state and access map meanwhile. Each answer must be one that is
// right in some state of the files, and at the end, in the last one. Prints FAILED where
// it is not. To be run with the module, as ../../test-phps.sh does.

require __DIR__ . '/../helpers.inc';

const THREADS = 6;
const USERS = 40;
const FUNCTIONS = ['map_user_via_sendmail_access', 'mailaffinity_node', 'mailaffinity_username_hash'];

/** The number of each kind's versions. */
const VERSIONS = ['config' => 2, 'state' => 2, 'map' => 2];

function put_in_force(string $kind, int $version): void
{
    if ($kind === 'config') {
        foreach (['a' => '%Lu', 'b' => '%u@'] as $site => $username_hash) {
            $template = configure('hash:' . path('access'), "username_hash = \"$username_hash\"", 'template');
            $text = str_replace('.example.org', ".$site$version.example.org", file_get_contents($template));
            replace("$site.toml", $text);
        }
    } elseif ($kind === 'state') {
        mark_down(...[[], ['node1']][$version]);
    } else {
        $text = '';
        foreach (users() as $i => $user) {
            $text .= "QGRP:$user@ node" . ($i + $version) % 3 + 1 . "group\n";
        }
        makemap(path('access'), $text);
    }
}

function users(): array
{
    return array_map(fn ($i) => "user$i", range(1, USERS));
}

/** What a process of its own, with one thread, answers now. */
function answers(string $config): array
{
    $code = '$answers = [];
        foreach (' . var_export(users(), true) . ' as $user) {
            $answers[$user] = [
                "map_user_via_sendmail_access" => map_user_via_sendmail_access($user),
                "mailaffinity_node" => serialize(mailaffinity_node($user)),
                "mailaffinity_username_hash" => (string) mailaffinity_username_hash($user),
            ];
        }
        echo serialize($answers);';
    [$out, $stderr, $status] = run_php($code, ['mailaffinity.config' => $config, 'error_log' => path('expected.log')]);
    $status === 0 or die("FAILED: $out$stderr\n");
    return unserialize($out);
}

/** All that is right with a configuration at some time. */
function right(string $config): array
{
    $right = [];
    foreach (range(0, VERSIONS['config'] - 1) as $config_version) {
        put_in_force('config', $config_version);
        foreach (range(0, VERSIONS['state'] - 1) as $state_version) {
            put_in_force('state', $state_version);
            foreach (range(0, VERSIONS['map'] - 1) as $map_version) {
                put_in_force('map', $map_version);
                foreach (answers($config) as $user => $of_user) {
                    foreach ($of_user as $function => $answer) {
                        $right[$user][$function][$answer] = true;
                    }
                }
            }
        }
    }
    return $right;
}

[, $program, $changes] = $argv;
$command = array_slice($argv, 3);
$configs = [path('a.toml'), path('b.toml')];
put_in_force('config', 0);
foreach ($configs as $config) {
    $right = right($config);
    file_put_contents("$config.right", serialize($right));
    // A test whose every answer is right would show nothing. There are three nodes, of two names each.
    foreach (FUNCTIONS as $function) {
        $with_wrong_nodes = array_filter($right, fn ($answers) => count($answers[$function]) < 6);
        check(count($with_wrong_nodes) >= USERS / 4, "all nodes are right for $function");
    }
}
$end = ['config' => 1, 'state' => 1, 'map' => 1];
array_map('put_in_force', array_keys($end), $end);
foreach ($configs as $config) {
    $now = array_map(fn ($of_user) => array_map(fn ($answer) => [$answer => true], $of_user), answers($config));
    file_put_contents("$config.end", serialize($now));
}

$ini = path('php.ini');
file_put_contents($ini, 'extension=' . module() . "\nerror_log=" . path('php.log') . "\n");
array_push($command, $program, $ini, __DIR__ . '/request.php', path('stop'), (string) THREADS, ...$configs);
$process = proc_open($command, [1 => ['pipe', 'w']], $pipes);
$seen = ['request' => 0, 'end' => 0];
/** Reads what the program says next; false if it has ended. */
function read_line(): bool
{
    global $pipes, $seen;
    $line = fgets($pipes[1]);
    $kind = rtrim((string) $line);
    if (isset($seen[$kind])) {
        $seen[$kind]++;
    } else {
        echo $line;
    }
    return $line !== false;
}

// Threads are at work before the first change, and go on between changes.
for ($i = 0; $i < THREADS && read_line(); $i++);
for ($i = 0; $i < $changes && read_line(); $i++) {
    $kind = array_keys(VERSIONS)[$i % 3];
    put_in_force($kind, random_int(0, VERSIONS[$kind] - 1));
}
array_map('put_in_force', array_keys($end), $end);
touch(path('stop'));
while (read_line());
$status = proc_close($process);
check($status === 0, "the program exits with $status");
check($i == $changes, "the program ends after $i changes");
check($seen['end'] >= THREADS, "only $seen[end] requests at the end");
$unexpected = array_diff(logged(), logged('expected.log'));
check($unexpected === [], 'the log has ' . implode("\n", $unexpected));
echo "$seen[request] requests of ", THREADS, ' threads, each for ', USERS, " users, during $i changes\n";
