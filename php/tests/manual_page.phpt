--TEST--
The examples of the manual page print what it says
--INI--
mailaffinity.config={PWD}/manual_page.tmp/mailaffinity.toml
error_log={PWD}/manual_page.tmp/php.log
--FILE--
<?php
require 'helpers.inc';

$page = file_get_contents(dirname(__DIR__, 2) . '/doc/man/map_user_via_sendmail_access.3');
preg_match_all('/^\.Bd -literal -offset indent\n(.*?)^\.Ed$/ms', $page, $match);
$blocks = str_replace('\e', '\\', $match[1]);

$map = path('access');
configure("hash:$map");
makemap($map, "QGRP:anna@\tnode2group\n");
$ran = 0;
foreach ($blocks as $i => $block) {
    if (!str_starts_with($block, "<?php\n")) {
        continue;
    }
    ob_start();
    eval(substr($block, strlen("<?php\n")));
    $printed = ob_get_clean();
    check($printed === $blocks[$i + 1], "it prints\n$printed");
    $ran++;
    if ($ran === 1) {
        $log = str_replace('FOLDER', '/etc/mail', implode("\n", newly_logged())) . "\n";
        check($log === $blocks[$i + 2], "it logs\n$log");
        mark_down('node2');
    }
}
echo $ran, " examples\n";
?>
--EXPECT--
2 examples
