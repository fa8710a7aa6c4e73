--TEST--
Each message is logged at most once a minute, and no flood of different ones gets through
--FILE--
<?php
require 'helpers.inc';

$map = path('access');
$entries = '';
foreach (range(1, 1000) as $i) {
    $entries .= "QGRP:lost$i@ nowhere$i\n";
}
makemap($map, $entries);
$directives = ['mailaffinity.config' => configure("hash:$map"), 'error_log' => path('php.log')];
$code = <<<'CODE'
    function calls(int $second, int $times, string $user): void {
        putenv("TEST_CLOCK=$second");
        error_log("at $second");
        for ($i = 1; $i <= $times; $i++) map_user_via_sendmail_access(str_replace("#", $i, $user));
    }
    calls(1000, 500, "nobody#");
    calls(1059, 500, "nobody#");
    calls(1060, 500, "nobody#");
    calls(5000, 1, "nobody");
    calls(5060, 1, "nobody");
    calls(6000, 1000, "lost#");
    calls(6059, 1000, "lost#");
    calls(6060, 30, "lost#");
    calls(6061, 1, "nobody");
    CODE;
[$out, $stderr] = run_php_with_clock($code, $directives);
echo $out, $stderr;
$lines = preg_replace('/^\[[^]]*\] /', '', file(path('php.log'), FILE_IGNORE_NEW_LINES));
$second = '';
foreach ($lines as $line) {
    if (str_starts_with($line, 'at ')) {
        $second = $line;
    } elseif (str_contains($line, 'nowhere')) {
        $lost[$second] = ($lost[$second] ?? 0) + 1;
    } else {
        echo "$second: ", str_replace(folder(), 'FOLDER', $line), "\n";
    }
}
print_r($lost);
?>
--EXPECT--
at 1000: mailaffinity: FOLDER/access.db: no entry for a user; using the computed node
at 1060: mailaffinity: FOLDER/access.db: no entry for a user; using the computed node (999 times more since it was last logged)
at 5000: mailaffinity: FOLDER/access.db: no entry for a user; using the computed node (499 times more since it was last logged)
at 5060: mailaffinity: FOLDER/access.db: no entry for a user; using the computed node
at 6000: mailaffinity: too many different messages; holding back those that are new
at 6061: mailaffinity: FOLDER/access.db: no entry for a user; using the computed node
Array
(
    [at 6000] => 100
    [at 6060] => 30
)
