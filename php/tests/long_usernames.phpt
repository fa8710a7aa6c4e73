--TEST--
No name costs more than some microseconds above a short one, nor memory
--FILE--
<?php
require 'helpers.inc';

/** How often each name is asked for. */
const CALLS = 20;

// The worst, a name in many domains, needs 240,000 more than a short one, for the pages of
// the map that are searched. They took 15 microseconds, where 20 are allowed.
const INSTRUCTIONS = 320_000;

$entries = '';
foreach (range(1, 20000) as $i) {
    $entries .= "QGRP:user$i@ node" . $i % 3 + 1 . "group\n";
}
makemap(path('access'), $entries);

/** Starts a PHP that asks for this name. What this returns waits for it: its instructions. */
function instructions(string $config, string $name, int $calls): Closure
{
    // Two run at once.
    copy($config, "$config.$calls");
    $config .= ".$calls";
    // What was replaced counts at once; the configuration is new, and would be read again and again.
    $code = 'map_user_via_sendmail_access("user1"); $config = ini_get("mailaffinity.config");
        copy($config, "$config.new"); rename("$config.new", $config);' . "\$name = $name; for (\$i = 0; \$i < $calls; \$i++) map_user_via_sendmail_access(\$name);";
    $valgrind = [tool('valgrind'), '--tool=callgrind', '--callgrind-out-file=/dev/null'];
    $directives = ['mailaffinity.config' => $config, 'error_log' => path('php.log')];
    $php = start([...$valgrind, ...php($directives), '-r', $code], ['ZEND_DONT_UNLOAD_MODULES' => '1'], check: true);
    return function () use ($php): int {
        [, $stderr] = $php();
        return preg_match('/Collected : (\d+)/', $stderr, $match) ? (int) $match[1] : die("FAILED: $stderr\n");
    };
}

$formats = [
    'as they are' => '',
    'usual' => "auth_username_format = \"%Ln\"\nauth_master_user_separator = \"*\"\nusername_hash = \"%Ln\"",
    'salted' => 'username_hash = "%{sha512;rounds=10,salt=%u:user}"',
];
$names = ['str_repeat("a", 255)', '"a+@" . str_repeat("a.", 120)', 'str_repeat("a", 1023)', 'str_repeat("@", 1023)', 'str_repeat("a+", 511)', '"a@" . str_repeat("a.", 500)', 'str_repeat("a", 8 << 20)'];
foreach ($formats as $what => $format) {
    $config = configure('hash:' . path('access'), $format);
    foreach (['"user1234567890123456"', ...$names] as $name) {
        // A call's own: what the same program needs anyway is taken off.
        [$all, $first] = [instructions($config, $name, CALLS + 1), instructions($config, $name, 1)];
        $own = intdiv($all() - $first(), CALLS);
        $short ??= $own;
        check($own - $short < INSTRUCTIONS, "$what: $name needs $own instructions, and a short one $short");
    }
    unset($short);
}

// The most that was resident, before and after a name of 8 MiB.
$code = <<<'CODE'
    $most = fn () => (int) preg_replace('/.*^VmHWM:\s+(\d+).*/ms', '$1', file_get_contents('/proc/self/status'));
    $name = str_repeat('a', 8 << 20);
    map_user_via_sendmail_access('user1');
    map_user_via_sendmail_access($name . 'b');
    $before = $most();
    map_user_via_sendmail_access($name);
    mailaffinity_node($name);
    echo $most() - $before < 256 ? "no memory\n" : "FAILED: memory\n";
    CODE;
echo implode(run_php($code, ['mailaffinity.config' => configure('hash:' . path('access'), $formats['usual']), 'error_log' => path('php.log')]));
?>
--EXPECT--
no memory
0
