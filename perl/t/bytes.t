# Usernames are bytes.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Site;
use Digest::MD5 qw(md5);
use Mail::Affinity qw(username_hash);

my $cluster = Mail::Affinity->new(username_hash => '%u', nodes => [map { { address => "10.0.0.$_" } } 1 .. 9]);

my @users = ('', '0', "\0", "a\0", "\0a", "a\0b", "\xff", "\xc3", "\xc3\xa4", "\x80\x00\xfe", '%u', "\n", 'a' x 5_000_000);
push @users, map { ("user$_", chr, 'user' . chr() . '@example.org') } 0 .. 255;
for my $user (@users) {
    my $shown = length $user > 100 ? length($user) . ' bytes' : unpack 'H*', $user;
    my $hash  = unpack('N', md5($user)) || 1;
    my $wide  = $user;
    utf8::upgrade($wide);
    is(username_hash($_, '%u'), $hash, "hash of $shown") for $user, $wide;
    is($cluster->node($_)->name, $cluster->node_of_hash($hash)->name, "node of $shown") for $user, $wide;
    ok(utf8::is_utf8($wide), 'what is given stays as it is');
}

is(username_hash(42), username_hash('42'), 'numbers are text');
for my $user ("\x{263a}", "anna\x{100}") {
    like(exception(sub { $cluster->node($user) }), qr/^user has characters that are no bytes; encode it first at /);
    like(exception(sub { username_hash($user) }), qr/^user has characters that are no bytes; encode it first at /);
}

# All else is UTF-8, in and out.
my ($node) = Mail::Affinity->new(nodes => [{ address => '10.0.0.1', name => "kn\xc3\xb6tchen", tag => "\xc3\xb6st" }])->nodes;
is($node->name, "kn\xc3\xb6tchen");
is($node->tag,  "\xc3\xb6st");
is(Mail::Affinity->new(nodes => [{ address => '10.0.0.1', tag => "\xc3\xb6st" }])->node('anna', "\xc3\xb6st")->number, 0);
like(exception(sub { Mail::Affinity->load("/no/\xff\xc3\xb6") }), qr{^/no/}, 'a path is bytes');

done_testing;
