--TEST--
What the fallback host may be
--FILE--
<?php
require 'helpers.inc';

$log = path('php.log');
foreach ([
    'imap.example.org', '192.0.2.1', '2001:db8::1', 'localhost',
    '', ' ', 'a b', 'imap:143', '[2001:db8::1]', 'tls://imap', "imap\n", "imap\0x", "\xff", "\u{e4}", "\u{1b}[31m", str_repeat('a', 256),
] as $fallback) {
    replace('php.ini', 'mailaffinity.fallback = "' . $fallback . "\"\n");
    remove($log);
    $command = array_diff(php(['mailaffinity.config' => path('missing.toml'), 'error_log' => $log]), ['-n']);
    [$host, $stderr] = run([...$command, '-c', path('php.ini'), '-r', 'echo map_user_via_sendmail_access("user1");'], ['PHP_INI_SCAN_DIR' => '']);
    check(is_host($host), "$host is no host");
    check($stderr === '', $stderr);
    echo json_encode($fallback, JSON_INVALID_UTF8_SUBSTITUTE), " => $host\n";
    $lines = array_slice(logged(), 1);
    check(array_pop($lines) === "mailaffinity: there is no node for a user; using the fallback host " . trim($host, '[]'), 'it is logged');
    foreach ($lines as $line) {
        check(preg_match('/[[:cntrl:]]/', $line) === 0, 'control characters in the log');
        echo "  $line\n";
    }
}
?>
--EXPECT--
"imap.example.org" => imap.example.org
"192.0.2.1" => 192.0.2.1
"2001:db8::1" => [2001:db8::1]
"localhost" => localhost
"" => localhost
  mailaffinity: mailaffinity.fallback: "" is not a bare host name or address (without port, blanks or brackets)
" " => localhost
  mailaffinity: mailaffinity.fallback: " " is not a bare host name or address (without port, blanks or brackets)
"a b" => localhost
  mailaffinity: mailaffinity.fallback: "a b" is not a bare host name or address (without port, blanks or brackets)
"imap:143" => localhost
  mailaffinity: mailaffinity.fallback: "imap:143" is not a bare host name or address (without port, blanks or brackets)
"[2001:db8::1]" => localhost
  mailaffinity: mailaffinity.fallback: "[2001:db8::1]" is not a bare host name or address (without port, blanks or brackets)
"tls:\/\/imap" => localhost
  mailaffinity: mailaffinity.fallback: "tls://imap" is not a bare host name or address (without port, blanks or brackets)
"imap\n" => localhost
  mailaffinity: mailaffinity.fallback: "imap\n" is not a bare host name or address (without port, blanks or brackets)
"imap\u0000x" => localhost
  mailaffinity: mailaffinity.fallback: "imap\0x" is not a bare host name or address (without port, blanks or brackets)
"\ufffd" => localhost
  mailaffinity: mailaffinity.fallback: "�" is not a bare host name or address (without port, blanks or brackets)
"\u00e4" => localhost
  mailaffinity: mailaffinity.fallback: "ä" is not a bare host name or address (without port, blanks or brackets)
"\u001b[31m" => localhost
  mailaffinity: mailaffinity.fallback: "\u{1b}[31m" is not a bare host name or address (without port, blanks or brackets)
"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" => localhost
  mailaffinity: mailaffinity.fallback: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" is not a bare host name or address (without port, blanks or brackets)
