# The example makes the entries that `mailaffinity update` makes.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Site;

my $script       = repository('perl/construct_qgroups');
my $mailaffinity = program('mailaffinity');
my $makemap      = program('makemap');
my $folder       = folder();

my $config = configure(<<"MORE");
status = "$folder/status.json"
syslog = "$folder/no-log"
[access_map]
map = "hash:$folder/access"
makemap = "$makemap"
[users]
file = "$folder/users"
MORE
write_file('nodes.toml', qq([node.node2]\nstate = "down"\nreason = "new disks"\n));
write_file('access', '');

# What it prints, what it warns of, and its exit status.
sub construct_qgroups {
    my @arguments = @_;
    my $quoted = join ' ', map { quotemeta } $^X, (map { "-I$_" } @INC), $script, @arguments;
    my $out = qx{$quoted 2>$folder/stderr};
    return ($out, read_file("$folder/stderr"), $? >> 8);
}

sub entries {
    my ($map) = @_;
    my @lines = qx{$makemap -u hash $map 2>$folder/stderr};
    $? == 0 or die "makemap fails\n";
    # The update notes what it made the map of.
    return [sort grep { !/^mailaffinity:source\t/ } @lines];
}

my @users = map { ("user$_", "Mixed.User$_", "user$_\@example.org", "user$_+detail") } 1 .. 200;
push @users, "b\xe9rt", "b\xc3\xa9rt\@Example.org", 'a@b@c', 'x' x 250, 'x' x 251;
push @users, 'a b', "tab\t", "bell\a", '@', '@example.org', 'anna@', 'anna+*', 'anna+*@example.org', 'USER1', 'user1';
write_file('users', join "\n", '# a comment', '', @users, '');

my ($out, $warnings, $status) = construct_qgroups('--config', $config, "$folder/users");
is($status, 0);
is(scalar(() = $out =~ /^QGRP:\S+@\S*\tnode[13]group$/mg), 804, 'an entry for each user');
unlike($out, qr/node2/);
is(scalar(() = $warnings =~ /^left out .*: sendmail cannot look it up$/mg), 9) or diag $warnings;

write_file('theirs', $out);
system("$makemap hash $folder/theirs <$folder/theirs 2>$folder/stderr") == 0 or die "makemap fails\n";
system($mailaffinity, '--config', $config, 'update') == 0 or die "mailaffinity update fails\n";
is_deeply(entries("$folder/theirs"), entries("$folder/access"), 'as mailaffinity update');

# A file is replaced whole, or left alone.
my $output = write_file('output', "old\n");
chmod 0640, $output;
my $old = (stat $output)[1];
is_deeply([construct_qgroups('--config', $config, '--output', $output, "$folder/users")], ['', $warnings, 0]);
is(read_file($output), $out);
is((stat $output)[2] & 07777, 0640, 'the mode stays');
isnt((stat $output)[1], $old, 'another file');
unlink $output;
is((construct_qgroups('--config', $config, '--output', $output, "$folder/users"))[2], 0);
is(read_file($output), $out);

write_file('nobody', '');
(my $printed, $warnings, $status) = construct_qgroups('--config', $config, '--output', $output, "$folder/nobody");
is_deeply([$printed, $warnings], ['', "there are no entries; nothing is written\n"]);
cmp_ok($status, '>', 0);
is(read_file($output), $out);
is_deeply([glob "$folder/.output*"], [], 'nothing is left behind');

write_file('nodes.toml', join '', map {qq([node.node$_]\nstate = "down"\n)} 1 .. 3);
like((construct_qgroups('--config', $config, "$folder/users"))[1], qr/^left out user1: no node is up$/m);
like((construct_qgroups('--config', "$folder/missing", "$folder/users"))[1], qr{^\Q$folder\E/missing: cannot read});
write_file('nodes.toml', '# all are up');

# The accounts of the system are those of getent.
my %in_passwd = map { /^([^:]+):[^:]*:(\d+):/ ? ($1 => $2) : () } qx{getent passwd};
my @expected  = grep { $in_passwd{$_} <= 999 } keys %in_passwd;
($out) = construct_qgroups('--config', $config, '--uid-min', 0, '--uid-max', 999);
is_deeply([sort $out =~ /^QGRP:(\S+)@\t/mg], [sort map { lc } @expected], 'accounts of the system');

is((construct_qgroups('--nonsense'))[2], 64);
like((construct_qgroups('--help'))[0], qr/^Usage:/);

done_testing;
