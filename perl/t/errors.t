# Errors are thrown, in the words of the library, and blame the caller.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Site;
use Mail::Affinity qw(hash_user_group_modulo hash_user_group_ring username_hash);

sub throws {
    my ($message, $code) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return like(exception($code), qr/^$message at \Q$0\E line \d+\.?$/);
}

my $cluster = Mail::Affinity->load(configure());
my $folder  = quotemeta folder();

throws("$folder/missing.toml: cannot read .*", sub { Mail::Affinity->load(folder() . '/missing.toml') });
write_file('unknown-key.toml', "\nnodestate = 1\n");
throws("$folder/unknown-key.toml:2: .*", sub { Mail::Affinity->load(folder() . '/unknown-key.toml') });
write_file('nodes.toml', '[node.node1');
throws("$folder/nodes.toml: not a node state.*", sub { Mail::Affinity->load(folder() . '/mailaffinity.toml') });
throws('file has a NUL', sub { Mail::Affinity->load("\0") });

throws('mail_servers is undefined', sub { Mail::Affinity->from_mail_servers(undef) });
throws('.*empty.*',                 sub { Mail::Affinity->from_mail_servers('') });
throws('.*10\.0\.0\.2-10\.0\.0\.1.*', sub { Mail::Affinity->from_mail_servers('10.0.0.2-10.0.0.1') });
throws('mail_servers has a NUL',      sub { Mail::Affinity->from_mail_servers("10.0.0.1\0") });
throws('mail_servers is not UTF-8',   sub { Mail::Affinity->from_mail_servers("10.0.0.1\@\xff") });
throws('strategy is "ring" or "modulo", not "direct"', sub { Mail::Affinity->new(strategy => 'direct') });
throws('unknown option hash, tag', sub { Mail::Affinity->from_mail_servers('10.0.0.1', hash => 1, tag => 2) });
throws('unknown option node', sub { Mail::Affinity->new(node => []) });
throws('username hash format "%x".*', sub { Mail::Affinity->new(username_hash => '%x') });
throws('.*at least one node.*', sub { Mail::Affinity->new });

sub add { my %node = @_; return sub { Mail::Affinity->new(nodes => [\%node]) } }
throws('address is undefined',              sub { add()->() });
throws('"node1" is not an IP address',      sub { add(address => 'node1')->() });
throws('address has a NUL',                 sub { add(address => "10.0.0.1\0")->() });
throws('name is not UTF-8',                 sub { add(address => '10.0.0.1', name => "\xff")->() });
throws('unknown option vhosts',             sub { add(address => '10.0.0.1', vhosts => 1)->() });
for my $vhost_count (-1, 4_294_967_296, '1e3', '', "1\n", 'many', 1.5) {
    throws('vhost_count is not a number from 0 to 4294967295', sub { add(address => '10.0.0.1', vhost_count => $vhost_count)->() });
}

throws('user is undefined', sub { $cluster->node(undef) });
throws('user is undefined', sub { username_hash() });
throws('invalid argument',  sub { $cluster->node('anna', "\xff") });
throws('invalid argument',  sub { $cluster->node('x' x 1024) });
throws('tag has a NUL',     sub { $cluster->node('anna', "east\0") });
throws('tag has a NUL',     sub { $cluster->node_of_hash(1, "east\0") });
throws('hash is not a number from 0 to 4294967295', sub { $cluster->node_of_hash($_) }) for undef, -1, 4_294_967_296, 'anna';
throws('username hash format "%\{nosuch\}".*', sub { username_hash('anna', '%{nosuch}') });

for my $function (\&hash_user_group_modulo, \&hash_user_group_ring) {
    throws('user has a NUL', sub { $function->("a\0b", 3) });
    throws('user is undefined', sub { $function->(undef, 3) });
    throws('vnodes is not a number from 1 to 2147483647', sub { $function->('anna', $_) }) for 0, -1, 2_147_483_648, undef, 'a';
}

# What is broken, and was kept when it was good.
my $copy = configure();
rename $copy, "$copy.last-good" or die $!;
chmod 0644, "$copy.last-good" or die $!;
write_file('mailaffinity.toml', '[[node');
write_file('nodes.toml',        '# all are up');
my @warnings;
local $SIG{__WARN__} = sub { push @warnings, @_ };
is(scalar Mail::Affinity->load($copy)->nodes, 3);
is(scalar @warnings, 1);
like($warnings[0],
    qr/^$folder\/mailaffinity.toml:1: .*; the last good copy $folder\/mailaffinity.toml.last-good of .* is in force at \Q$0\E line/);

# An error has no effect on what comes after it.
is(exception(sub { $cluster->node('anna') }), '');

done_testing;
