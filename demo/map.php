<?php
// The host of each user on standard input, asked for as SquirrelMail does with
// $imapServerAddress = 'map:map_user_via_sendmail_access';
error_reporting(0);
$imapServerAddress = 'map:map_user_via_sendmail_access';
$function = substr($imapServerAddress, strlen('map:'));
while (($user = fgets(STDIN)) !== false) {
    echo $function(trim($user)), "\n";
}
