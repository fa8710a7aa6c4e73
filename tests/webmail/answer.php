<?php
// The host of the posted user, as SquirrelMail asks for it, and who says so.
error_reporting(0);
header('Content-Type: application/json');
$user = $_POST['user'];
echo json_encode([
    'host' => map_user_via_sendmail_access($user),
    'computed' => mailaffinity_node($user)['host'],
    'worker' => getmypid(),
    'opcache' => opcache_get_status(false)['opcache_enabled'] && opcache_is_script_cached(__FILE__),
]);
