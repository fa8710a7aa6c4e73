# A site is what its files say at each question.

use strict;
use warnings;

use FindBin;
use POSIX qw(_exit);
use Test::More;

use lib "$FindBin::Bin/lib";
use Site;
use Mail::Affinity;

my @warnings;
local $SIG{__WARN__} = sub { push @warnings, @_ };

# All that was told since this was called last.
sub told {
    my @told = splice @warnings;
    return join '', @told;
}

sub replace {
    my ($name, $text) = @_;
    rename write_file('new', $text), folder() . "/$name" or die "$name: $!";
    return;
}

sub down { return join '', "# written\n", map { qq([node.$_]\nstate = "down"\n) } @_ }

my $access = folder() . '/access';
my $map    = qq([access_map]\nmap = "text:$access"\n);
my $file   = configure();
replace('nodes.toml', down());

# The mapping's answers, of which user1's is node3.
my $site = Mail::Affinity::Site->new($file);
my $home = $site->node('user1');
is_deeply($home, Mail::Affinity->load($file)->node('user1'), 'the same in all that is known of it');
is($site->node("User$_")->name, $site->cluster->node("user$_")->name) for 1 .. 20;

replace('nodes.toml', down($home->name));
my $away = $site->node('user1')->name;
isnt($away, $home->name, 'a node goes down');
my $cluster = $site->cluster;
replace('nodes.toml', down());
is($site->node('user1')->name,    $home->name, 'and comes back');
is($cluster->node('user1')->name, $away,       'a cluster never changes');
is(told(),                        '');

# What breaks does not count, and is told once.
replace('nodes.toml', '[node');
is($site->node('user1')->name, $home->name);
like(told(), qr{^\Q@{[folder()]}\E/nodes\.toml: not a node state: .* at \Q$0\E line \d+\.$});
is($site->node('user1')->name, $home->name);
is(told(), '', 'once');
replace('nodes.toml', down(qw(node1 node2 node3)));
is($site->node('user1'), undef, 'none is up');
like(told(), qr/^no node without a tag is up at \Q$0\E line/);
is_deeply([$site->node('user1')], [undef]);
told();
replace('nodes.toml', down());

# The access map comes first.
my ($other) = grep { $_ ne $home->name } map { $_->name } $site->cluster->nodes;
replace('access', "QGRP:user1@ ${other}group\n");
(my $text = read_file($file)) =~ s/^(?=\[\[node)/$map/m;
replace('mailaffinity.toml', $text);
is($site->node('user1')->name, $other, 'as the map has it');
is(told(), '');
like($site->node('user2')->name, qr/^node/);
like(told(), qr{/access: no entry for a user; using the computed node});

# A child goes on with it.
my $child = fork // die "fork: $!";
_exit($site->node('user1')->name eq $other ? 0 : 1) if $child == 0;
waitpid $child, 0;
is($?, 0);

# One that was never good.
replace('mailaffinity.toml', 'nonsense');
$site = Mail::Affinity::Site->new($file);
like(told(), qr{/mailaffinity\.toml:1: .*; there is no good configuration to use at});
for my $question (sub { $site->node('user1') }, sub { $site->cluster }) {
    like(exception($question), qr{/mailaffinity\.toml:1: .*; there is no good configuration to use at \Q$0\E line});
}
replace('mailaffinity.toml', $text);
is($site->node('user1')->name, $other, 'it is mended');

like(exception(sub { Mail::Affinity::Site->new('mailaffinity.toml') }), qr/^mailaffinity.toml is not an absolute path at \Q$0\E line/);
like(exception(sub { $site->node('x' x 1024) }), qr/^a user's name is longer than 1023 bytes at \Q$0\E line/);
like(exception(sub { $site->node(undef) }),      qr/^user is undefined at \Q$0\E line/);
is(told(), '');

done_testing;
