--TEST--
SquirrelMail can use it: $imapServerAddress = 'map:map_user_via_sendmail_access'
--INI--
mailaffinity.config={PWD}/squirrelmail.tmp/mailaffinity.toml
error_log={PWD}/squirrelmail.tmp/php.log
display_errors=1
--FILE--
<?php
require 'helpers.inc';
error_reporting(0);

// As SquirrelMail does it.
function imap_user_server(string $imap_server, $username)
{
    if (substr($imap_server, 0, 4) != 'map:') {
        return $imap_server;
    }
    $function = substr($imap_server, 4);
    return $function($username);
}

configure();
$hosts = [];
foreach (range(1, 100) as $i) {
    foreach (["user$i", "User$i", "user$i@example.org", "user$i+work", "  user$i\r\n"] as $posted) {
        $username = trim($posted);
        $host = imap_user_server('map:map_user_via_sendmail_access', $username);
        check(preg_match('/^node[123]\.example\.org$/D', $host) === 1, "$host for user$i");
        $hosts[$host] = true;
        // redirect, left_main, right_main, read_body, ...: the same in the whole session.
        foreach (range(1, 5) as $page) {
            check(imap_user_server('map:map_user_via_sendmail_access', $username) === $host, "$posted moves");
        }
        check(mailaffinity_node($username)['host'] === $host, "the computed node of $posted");
    }
}
check(count($hosts) === 3, 'all nodes have users');

// A host that a connection can be made to, by name and by address.
foreach (['localhost' => '127.0.0.1', '127.0.0.1' => '127.0.0.1', '::1' => '[::1]'] as $host => $address) {
    $server = stream_socket_server("tcp://$address:0");
    $port = $server ? (int) substr(strrchr(stream_socket_get_name($server, false), ':'), 1) : 143;
    replace('mailaffinity.toml', "[[node]]\nname = \"node1\"\naddress = \"10.0.0.1\"\nhost = \"$host\"\n");
    $mapped = imap_user_server('map:map_user_via_sendmail_access', 'user1');
    $connected = fsockopen($mapped, $port, $code, $error);
    // On a machine without IPv6 it must at least be understood.
    check($connected || !$server && $address === '[::1]' && !str_contains($error, 'getaddrinfo'), "$mapped: $error");
}

$function = new ReflectionFunction('map_user_via_sendmail_access');
check($function->getNumberOfRequiredParameters() === 1, 'one argument');
var_dump(logged());
?>
--EXPECT--
array(0) {
}
