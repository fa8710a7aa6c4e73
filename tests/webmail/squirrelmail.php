<?php
// A webmail of one page that calls the mapping as SquirrelMail does: a plain function of
// the user's name, before authentication, for each page, with no word about errors.
error_reporting(0);
require 'config.php';

session_start();
if (isset($_POST['login_username'])) {
    $_SESSION = ['username' => trim($_POST['login_username']), 'key' => $_POST['secretkey']];
}
$username = $_SESSION['username'];

$function = substr($imapServerAddress, strlen('map:'));
$host = $function($username);
$imap = fsockopen($host, $imapPort, $error, $message, 15);
if (!$imap) {
    die("Error connecting to IMAP server: $host.\n");
}
fgets($imap);
foreach (['A001 LOGIN' => $username, '' => $_SESSION['key']] as $before => $literal) {
    fwrite($imap, "$before {" . strlen($literal) . "}\r\n");
    fgets($imap);
    fwrite($imap, $literal);
}
fwrite($imap, "\r\n");
$answer = fgets($imap);
fwrite($imap, "A002 LOGOUT\r\n");
stream_get_contents($imap);
echo str_starts_with($answer, 'A001 OK') ? "logged in\n" : "refused: $answer";
