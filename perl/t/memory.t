# What is made is freed, once: by a process, by its child, and when a program ends.

use strict;
use warnings;

use FindBin;
use POSIX qw(_exit);
use Test::More;

use lib "$FindBin::Bin/lib";
use Site;
use Mail::Affinity;

my $file = configure();

my %freed = (cluster => 0, builder => 0);
for my $what (keys %freed) {
    no strict 'refs';
    no warnings 'redefine';
    my $free = \&{"Mail::Affinity::C::mailaffinity_${what}_free"};
    *{"Mail::Affinity::C::mailaffinity_${what}_free"} = sub { $freed{$what}++; goto &$free };
}

my $cluster = Mail::Affinity->load($file);
my $other   = $cluster;
undef $cluster;
is($freed{cluster}, 0, 'it is in use');
undef $other;
is($freed{cluster}, 1);
exception(sub { Mail::Affinity->load('/missing') });
is($freed{cluster}, 1, 'nothing was made');
$cluster = Mail::Affinity->new(nodes => [{ address => '10.0.0.1' }]);
is_deeply(\%freed, { cluster => 1, builder => 1 });
exception(sub { Mail::Affinity->new(nodes => [{ address => '10.0.0.1' }, { address => 'node2' }]) });
exception(sub { Mail::Affinity->new(nodes => []) });
is_deeply(\%freed, { cluster => 1, builder => 3 });

# A child frees its own.
my $child = fork // die "fork: $!";
if ($child == 0) {
    my $good = $cluster->node('anna')->name eq '10.0.0.1';
    undef $cluster;
    _exit($good && $freed{cluster} == 2 ? 0 : 1);
}
waitpid $child, 0;
is($?, 0, 'the child has its own');
is($freed{cluster}, 1);
is($cluster->node('anna')->name, '10.0.0.1', 'and leaves ours');
undef $cluster;
is($freed{cluster}, 2);

# Valgrind, of all that Perl code can do.
my $all = <<'CODE';
use strict;
use warnings;
use threads;
use Mail::Affinity qw(username_hash);
my $file = shift;
our $global = Mail::Affinity->load($file);
our $open   = Mail::Affinity::Site->new($file);
sub all {
    for my $i (1 .. 20) {
        my $site = Mail::Affinity::Site->new($file);
        my ($asked, $now) = ($site->node('anna'), $site->cluster);
        undef $site;
        $now->node('anna')->name eq $asked->name or die;
        my $cluster = Mail::Affinity->load($file);
        my @nodes   = map { $cluster->node("user$_") } 1 .. 20;
        undef $cluster;
        @nodes = map { $_->name } @nodes;
        $cluster = Mail::Affinity->new(nodes => [map { { address => "10.0.0.$_" } } 1 .. 5]);
        $cluster->node("\0\xff" x $i);
        $cluster->node('anna', 'east');
        $cluster->node_of_hash($i);
        Mail::Affinity->from_mail_servers('10.0.0.1', strategy => 'modulo');
        Mail::Affinity::hash_user_group_ring('anna', $i);
        username_hash('anna', '%Ln');
        eval { $_->() } for sub { Mail::Affinity->load('/' . 'missing' x 1000) }, sub { username_hash('', '%{no}') },
            sub { Mail::Affinity->new(nodes => [{ address => 'node1' }]) }, sub { $cluster->node('anna', "\xff") };
    }
}
all();
$_->join for map { threads->create(\&all) } 1 .. 3;
my $child = fork // die;
if ($child) { waitpid $child, 0; die if $? }
$_->node('anna') or die for $global, $open;
CODE

# Runs a program in Valgrind; returns what that says of the library, and the exit status.
sub valgrind {
    my ($code) = @_;
    my $log    = folder() . '/valgrind';
    unlink glob "$log.*";
    system(
        program('valgrind'), '-q', '--leak-check=full', '--show-leak-kinds=definite,indirect,possible',
        '--num-callers=50', "--log-file=$log.%p",
        $^X, (map { "-I$_" } @INC), write_file('program.pl', $code), $file
    );
    # Blocks of lines that begin with ==PID==.
    my @blocks = map { split /^==\d+== *\n/m, read_file($_) } glob "$log.*";
    return join("\n", grep { /libmailaffinity/ } @blocks), $?;
}
is_deeply([valgrind($all)], ['', 0], 'no invalid access and no leak');

# It would have noticed.
my $load = 'use Mail::Affinity; Mail::Affinity::C::mailaffinity_cluster_load(shift, \my $handle, undef, 0);';
my $free = 'Mail::Affinity::C::mailaffinity_cluster_free($handle);';
is((valgrind($load . $free))[0], '', 'as it should be');
ok((valgrind($load))[0] =~ / lost in /, 'a leak is seen');
ok((valgrind($load . $free . $free))[0] =~ /Invalid/, 'so is a second free');

done_testing;
