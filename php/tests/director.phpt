--TEST--
The answers are those that Dovecot's Director gave
--INI--
mailaffinity.config={PWD}/director.tmp/mailaffinity.toml
error_log={PWD}/director.tmp/php.log
--FILE--
<?php
require 'helpers.inc';

// See tests/director/README.md for the format.
foreach (['ring-3', 'ring-down', 'ring-unequal', 'ring-tags', 'ring-ipv6', 'direct-3', 'hashes-Lu'] as $scenario) {
    $config = $state = '';
    $users = 0;
    foreach (file(__DIR__ . "/../../tests/director/$scenario.tsv", FILE_IGNORE_NEW_LINES) as $line) {
        if (preg_match('/^# strategy = (\w+)/', $line, $match)) {
            $config = 'node_state = "' . path('nodes.toml') . "\"\n" . ($match[1] === 'direct' ? "strategy = \"modulo\"\n" : '');
        } elseif (preg_match('/^# host = (\S+) (\d+) (\S+) (\w+)/', $line, $match)) {
            [, $address, $vhosts, $tag, $up] = $match;
            $tag = $tag === '-' ? '' : $tag;
            $config .= "[[node]]\nname = \"$address@$tag\"\naddress = \"$address\"\nvhost_count = $vhosts\ntag = \"$tag\"\n";
            $state .= $up === 'down' ? "[node.\"$address@$tag\"]\nstate = \"down\"\nsince = \"2026-11-23T20:45:00Z\"\n" : '';
        } elseif ($line !== '' && $line[0] !== '#') {
            if ($users++ === 0) {
                // The state only once: a file that stays as it is need not be read again.
                replace('nodes.toml', $state);
                replace('mailaffinity.toml', $scenario === 'hashes-Lu' ? "[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n" : $config);
            }
            [$user, $tag, $answer] = array_map(rawurldecode(...), explode("\t", $line));
            if ($scenario === 'hashes-Lu') {
                check(mailaffinity_username_hash($user) === (int) $answer, "$scenario: $line");
                continue;
            }
            $node = mailaffinity_node($user, $tag);
            check(($node['address'] ?? '-') === $answer, "$scenario: $line");
            if ($tag === '' && $answer !== '-') {
                check(trim(map_user_via_sendmail_access($user), '[]') === $answer, "$scenario: $line");
            }
        }
    }
    check($users > 10, "$scenario has only $users users");
    echo "$scenario\n";
}
?>
--EXPECT--
ring-3
ring-down
ring-unequal
ring-tags
ring-ipv6
direct-3
hashes-Lu
