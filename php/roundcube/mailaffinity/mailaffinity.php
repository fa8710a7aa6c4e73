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
    /** @var string as Roundcube knows the user, before other plugins change him */
    private $user;

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
        $this->api->handlers += ['storage_connect' => []];
        array_unshift($this->api->handlers['storage_connect'], [$this, 'before_others']);
    }

    /** @param array $args the host without scheme and port, the user as IMAP will see it, and more */
    public function before_others($args)
    {
        $this->user = $args['user'];
        // What is added in the hook still runs, after all others.
        $this->remove_hook('storage_connect', [$this, 'connect']);
        $this->add_hook('storage_connect', [$this, 'connect']);
    }

    /** @param array $args as other plugins have left them: another user, or a master user in his mailbox */
    public function connect($args)
    {
        if ($this->is_of_cluster($args['host'])) {
            // Dovecot's auth_username_chars has none of these, so a master user's name follows.
            $with_master = '/^' . preg_quote($this->user, '/') . '[^\w.@+\x80-\xff-]/';
            $user = preg_match($with_master, $args['user']) ? $this->user : $args['user'];
            $args['host'] = map_user_via_sendmail_access($user);
        }
        return $args;
    }

    private function is_of_cluster($host)
    {
        $cluster = (array) rcube::get_instance()->config->get('mailaffinity_imap_hosts');
        foreach ($cluster as $name) {
            $name = preg_replace(['~^\w+://~', '/^(\[.*\]|[^:]*):\d+$/'], ['', '$1'], $name);
            // What %s stands for, the domain of the login, is not known any more after it.
            $parts = array_map(function ($part) {
                return preg_quote(rcube_utils::parse_host($part), '/');
            }, explode('%s', $name));
            if (preg_match('/^' . implode('.+', $parts) . '$/i', $host)) {
                return true;
            }
        }
        return empty($cluster);
    }
}
