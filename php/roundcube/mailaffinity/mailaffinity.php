<?php

/**
 * Connects each user to the node that mailaffinity names.
 *
 * Only the host of the IMAP connection is exchanged, each time there is one. The session
 * and the user's record keep the host of `imap_host`: Roundcube knows its users by name
 * and host, and who moves to another node must find his contacts and settings there.
 *
 * @license MIT
 */
class mailaffinity extends rcube_plugin
{
    public function init()
    {
        if (!function_exists('map_user_via_sendmail_access')) {
            rcube::raise_error([
                'code' => 600,
                'file' => __FILE__,
                'line' => __LINE__,
                'message' => 'mailaffinity: the PHP module mailaffinity is not loaded; all users go to imap_host',
            ], true, false);
            return;
        }
        $this->load_config();
        $this->add_hook('storage_connect', [$this, 'connect']);
    }

    /** @param array $args the host without scheme and port, the user as IMAP will see it, and more */
    public function connect($args)
    {
        $cluster = rcube::get_instance()->config->get('mailaffinity_imap_hosts');
        if (empty($cluster) || in_array($args['host'], (array) $cluster, true)) {
            $args['host'] = map_user_via_sendmail_access($args['user']);
        }
        return $args;
    }
}
