<?php

/**
 * Stub of the PHP module mailaffinity, for IDEs and static analysis. Not to be loaded.
 *
 * Directives, both PHP_INI_SYSTEM (php.ini, or php_admin_value for a PHP-FPM pool):
 *
 * @ini mailaffinity.config = "/etc/mailaffinity.toml": the configuration file
 * @ini mailaffinity.fallback = "localhost": the host for all users while there is no node
 *
 * Changes of the configuration, node state and access map are noticed at the next call; no
 * restart is needed. While one of the first two is broken, its last good version is in force,
 * also in a process that comes new.
 *
 * The module writes to PHP's error log (error_log) directly, whatever error_reporting,
 * display_errors and log_errors say, and each message at most once a minute: by all workers
 * of a web server together, which share a file mailaffinity-UID in sys_temp_dir.
 */

/**
 * No good configuration was ever read, nor kept, or there is a bug. The message names the file and
 * the cause.
 */
class MailaffinityException extends \RuntimeException
{
}

/**
 * The host that webmail connects to for a user. For SquirrelMail:
 * `$imapServerAddress = 'map:map_user_via_sendmail_access';`
 *
 * The node that the access map names, unless it is down; else the computed one among those
 * that are up; else mailaffinity.fallback. Each step down is logged.
 *
 * Takes any value, never throws and prints nothing. A scalar counts as the string that PHP's
 * own functions make of it. Anything else, which a form can post too (an array), gets
 * mailaffinity.fallback, and so does a name of more than 1023 bytes, which is no user's; both
 * are logged.
 *
 * @param scalar|mixed $username as it was posted
 * @return non-empty-string a host name or address that fsockopen() takes, without port;
 *         IPv6 in brackets
 */
function map_user_via_sendmail_access(mixed $username): string
{
    throw new \Error('The module mailaffinity is not loaded');
}

/**
 * The node that the mapping gives to a user among those that are up. The access map is not
 * asked.
 *
 * @param string $username
 * @param string|null $tag null: that of the configuration; '': none
 * @return array{name: string, address: string, host: string, queue_group: string|null, tag: string}|null
 *         null when no node with the tag is up
 * @throws MailaffinityException
 */
function mailaffinity_node(string $username, ?string $tag = null): ?array
{
    throw new \Error('The module mailaffinity is not loaded');
}

/**
 * The 32-bit hash of a user, by the configuration's username_hash, of the name that
 * authentication leaves.
 *
 * @param string $username
 * @return int<0, 4294967295>
 * @throws MailaffinityException
 */
function mailaffinity_username_hash(string $username): int
{
    throw new \Error('The module mailaffinity is not loaded');
}

/**
 * All nodes, in the order of the configuration. Those that are down have a time (RFC 3339,
 * where it is known) and a reason.
 *
 * @return list<array{name: string, address: string, host: string, queue_group: string|null, tag: string, vhost_count: int, state: 'up'|'down', since: string|null, reason: string|null}>
 * @throws MailaffinityException
 */
function mailaffinity_nodes(): array
{
    throw new \Error('The module mailaffinity is not loaded');
}
