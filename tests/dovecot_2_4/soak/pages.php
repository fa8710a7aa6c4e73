<?php
// A page, loaded as SquirrelMail loads it: a plain function of the user's name, and an IMAP login
// at the host that it names. It prints the host, the port here, and what came of it. SquirrelMail
// has no word about errors; here, all but those of the network are in PHP's log.
error_reporting(E_ALL);

function page(string $host, string $user, string $password, int $patience): string {
    $imap = @fsockopen($host, 143, $error, $message, $patience);
    if (!$imap) {
        return "0 $message";
    }
    stream_set_timeout($imap, $patience);
    $port = substr(strrchr(stream_socket_get_name($imap, false), ':'), 1);
    @fgets($imap);
    foreach (["A001 LOGIN $user $password", 'A002 SELECT INBOX', 'A003 LOGOUT'] as $command) {
        @fwrite($imap, "$command\r\n");
        $tag = substr($command, 0, 5);
        do {
            $line = @fgets($imap);
            if ($line === false) {
                return "$port no answer to $tag";
            }
        } while (!str_starts_with($line, $tag));
        if (!str_starts_with($line, "{$tag}OK")) {
            return "$port " . trim($line);
        }
    }
    return "$port loaded";
}

[$user, $password] = [$_SERVER['MAIL_USER'], $_SERVER['MAIL_PASSWORD']];
$host = map_user_via_sendmail_access($user);
echo "$host ", page($host, $user, $password, (int) $_SERVER['PATIENCE']), "\n";
