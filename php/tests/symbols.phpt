--TEST--
Of the C library nothing is in the module: no symbols, no SONAME
--FILE--
<?php
require 'helpers.inc';

[$symbols] = run([tool('nm'), '-D', '--defined-only', module()], check: true);
preg_match_all('/ \w (\S+)$/m', $symbols, $match);
print_r($match[1]);
[$dynamic] = run([tool('readelf'), '-d', module()], check: true);
check(str_contains($dynamic, '(NEEDED)'), 'the dynamic section can be read');
check(!str_contains($dynamic, '(SONAME)'), 'it has a SONAME');
check(!str_contains($dynamic, 'libmailaffinity'), 'it needs the library');
?>
--EXPECT--
Array
(
    [0] => get_module
    [1] => mailaffinity_php_get_module
)
