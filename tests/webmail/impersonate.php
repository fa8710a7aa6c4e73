<?php

// Lets an administrator into a user's mailbox: who logs in as anna*admin is anna for
// Roundcube, or admin, and opens anna's mailbox all the same.
class impersonate extends rcube_plugin
{
    public function init()
    {
        $this->add_hook('authenticate', [$this, 'log_in']);
        $this->add_hook('storage_connect', [$this, 'open']);
    }

    public function log_in($args)
    {
        list($mailbox, $master) = explode('*', $args['user']);
        if (rcube::get_instance()->config->get('impersonate_as_user')) {
            $args['user'] = $mailbox;
            $_SESSION['impersonate'] = "$mailbox*$master";
        } else {
            $args['user'] = $master;
            $_SESSION['impersonate'] = $mailbox;
        }
        return $args;
    }

    public function open($args)
    {
        $args['user'] = $_SESSION['impersonate'];
        return $args;
    }
}
