<?php
// One request of threads.c: asks for all users, and prints each answer that is not one
// of the right ones.

function wrong_answers(array $right): string
{
    $wrong = '';
    foreach ($right as $user => $right_answers) {
        $answers = [
            'map_user_via_sendmail_access' => map_user_via_sendmail_access($user),
            'mailaffinity_node' => serialize(mailaffinity_node($user)),
            'mailaffinity_username_hash' => (string) mailaffinity_username_hash($user),
        ];
        foreach ($answers as $function => $answer) {
            if (!isset($right_answers[$function][$answer])) {
                $wrong .= "FAILED: $function('$user') is $answer\n";
            }
        }
    }
    $groups = array_column(mailaffinity_nodes(), 'queue_group');
    if ($groups !== ['node1group', 'node2group', 'node3group']) {
        $wrong .= 'FAILED: mailaffinity_nodes() has ' . implode(', ', $groups) . "\n";
    }
    return $wrong;
}

$config = ini_get('mailaffinity.config');
$ends = file_exists(dirname($config) . '/stop');
$right = unserialize(file_get_contents($ends ? "$config.end" : "$config.right"));
echo wrong_answers($right), $ends ? "end\n" : "request\n";
