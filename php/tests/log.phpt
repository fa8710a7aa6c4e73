--TEST--
The log is written whatever PHP's error settings are, and never the page
--FILE--
<?php
require 'helpers.inc';

$code = 'error_reporting(0); set_error_handler(fn () => print("FAILED: handler\n")); ob_start();
    echo map_user_via_sendmail_access("user1"); echo ob_get_length(); ob_end_flush(); print_r(error_get_last());';
$log = path('php.log');
foreach ([
    'silent' => ['error_reporting' => 0, 'display_errors' => 0, 'log_errors' => 0],
    'verbose' => ['error_reporting' => -1, 'display_errors' => 1, 'log_errors' => 1],
    'in HTML' => ['display_errors' => 'stdout', 'html_errors' => 1, 'log_errors' => 0],
] as $what => $settings) {
    echo "$what\n";
    $settings += ['mailaffinity.config' => path('missing.toml')];
    // error_log names a file, no file that can be written, or nothing: PHP's own log, here stderr.
    foreach ([$log, folder(), ''] as $error_log) {
        remove($log);
        [$out, $stderr] = run_php($code, $settings + ['error_log' => $error_log]);
        check($out === 'localhost9', "it printed $out");
        $in_file = count(logged());
        $on_stderr = substr_count($stderr, 'mailaffinity: ');
        echo "  $in_file lines in the file, $on_stderr on stderr\n";
    }
}
?>
--EXPECT--
silent
  2 lines in the file, 0 on stderr
  0 lines in the file, 2 on stderr
  0 lines in the file, 2 on stderr
verbose
  2 lines in the file, 0 on stderr
  0 lines in the file, 2 on stderr
  0 lines in the file, 2 on stderr
in HTML
  2 lines in the file, 0 on stderr
  0 lines in the file, 2 on stderr
  0 lines in the file, 2 on stderr
