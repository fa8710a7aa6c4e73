# Clusters, nodes and functions.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Site;
use Mail::Affinity qw(hash_user_group_modulo hash_user_group_ring library_version username_hash);

# Of a configuration.

my $file = configure(qq(tag = ""\n));
write_file('nodes.toml', qq([node.node2]\nstate = "down"\nreason = "new disks"\n));
my $cluster = Mail::Affinity->load($file);
is_deeply([map { $_->name } $cluster->nodes], [qw(node1 node2 node3)]);
my $node1 = ($cluster->nodes)[0];
is_deeply(
    [map { $node1->$_ } qw(number name address tag host queue_group vhost_count state)],
    [0, 'node1', '10.0.0.1', '', 'node1.example.org', 'node1group', 100, 'up']
);
is_deeply([map { $_->state } $cluster->nodes], [qw(up down up)]);

# As INFN-16-11/CCR and md5sum have it: user1 is 24c9e15e.
is(username_hash('user1'), 0x24c9e15e);
is($cluster->node('user1')->name,             $cluster->node_of_hash(0x24c9e15e)->name);
is($cluster->node('USER1')->name,             $cluster->node('user1')->name, 'in lower case, by default');
is($cluster->node('user1', 'east'),           undef, 'no node has the tag');
is_deeply([$cluster->node_of_hash(1, 'east')], [undef]);

my %users_of;
$users_of{ $cluster->node("user$_")->name }++ for 1 .. 300;
is_deeply([sort keys %users_of], [qw(node1 node3)], 'those that are up');

write_file('nodes.toml', '# all are up');
is_deeply([map { $_->state } $cluster->nodes], [qw(up down up)], 'a cluster never changes');
is_deeply([map { $_->state } Mail::Affinity->load($file)->nodes], [qw(up up up)]);

(my $tagged = read_file($file)) =~ s/(?<=^name = "node3"\n)/tag = "east"\n/m;
$tagged =~ s/^tag = ""/tag = "east"/m;
$cluster = Mail::Affinity->load(write_file('tagged.toml', $tagged));
is_deeply([map { $cluster->node("user$_")->name } 1 .. 9], [('node3') x 9], 'the tag of the configuration');
isnt($cluster->node('user1', '')->name, 'node3');

# Of a director_mail_servers string.

$cluster = Mail::Affinity->from_mail_servers('10.0.0.1-10.0.0.3 2001:db8::1@east', strategy => 'modulo',
    username_hash => '%Ln');
is_deeply([map { $_->name . '@' . $_->tag } $cluster->nodes],
    [qw(10.0.0.1@ 10.0.0.2@ 10.0.0.3@ 2001:db8::1@east)]);
is_deeply([map { $_->queue_group } $cluster->nodes], [(undef) x 4]);
is($cluster->node('user1')->address, '10.0.0.' . (1 + int 0x24c9e15e % 300 / 100), 'modulo');
is($cluster->node('User1@example.org')->address, $cluster->node('user1')->address, '%Ln');
is($cluster->node('user1', 'east')->address, '2001:db8::1');

# By hand.

$cluster = Mail::Affinity->new(
    username_hash => '%u',
    nodes         => [
        { address => '10.0.0.1', vhost_count => 50, state => 'down' },
        { address => '10.0.0.2', name => 'node2', tag => undef },
        { address => '::ffff:10.0.0.3', tag => 'east', vhost_count => 0 },
    ]
);
is_deeply([map { [$_->name, $_->address, $_->tag, $_->vhost_count, $_->state] } $cluster->nodes],
    [
        ['10.0.0.1',        '10.0.0.1',        '',     50,  'down'],
        ['node2',           '10.0.0.2',        '',     100, 'up'],
        ['::ffff:10.0.0.3', '::ffff:10.0.0.3', 'east', 0,   'up'],
    ]);
is($cluster->node('anna')->name,    'node2');
is($cluster->node('anna', 'east'), undef, 'no vhosts');

my $node = $cluster->node('anna');
undef $cluster;
is($node->name, 'node2', 'a node may outlive its cluster');

@Subclass::ISA = ('Mail::Affinity');
isa_ok(Subclass->load($file), 'Subclass');

# hash_user_group.c: by modulo, the hash of the name; on the ring, its vnode is found
# from the printed description.

is(hash_user_group_modulo('user1', 3), 0x24c9e15e % 3);

sub by_description {
    my ($user, $vnodes) = @_;
    require Digest::MD5;
    my $hash = sub { unpack 'N', Digest::MD5::md5($_[0]) };
    my %point = map { $hash->("-$_") => $_ } 0 .. $vnodes - 1;
    my @ring  = sort { $a <=> $b } keys %point;
    my ($next) = grep { $_ >= $hash->($user) } @ring;
    return $point{ $next // $ring[0] };
}
is_deeply([map { hash_user_group_ring("user$_", 17) } 1 .. 200], [map { by_description("user$_", 17) } 1 .. 200]);

like(library_version(), qr/^\d+\.\d+\.\d+$/);

done_testing;
