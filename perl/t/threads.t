# Threads: each loads a cluster of its own, and all may ask at once.

use strict;
use warnings;

use threads;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Site;
use Mail::Affinity;

my $file    = configure();
my $cluster = Mail::Affinity->load($file);
my @nodes   = $cluster->nodes;

sub names_by {
    my ($cluster) = @_;
    return join ' ', map { $cluster->node("user$_")->name } 1 .. 1000;
}

sub in_thread {
    my $errors = 0;
    for (1 .. 20) {
        eval { Mail::Affinity->load('/missing'); 1 } or $errors += $@ =~ m{^/missing: cannot read};
        Mail::Affinity->new(nodes => [{ address => '10.0.0.1' }])->node('anna')->name eq '10.0.0.1' or die;
    }
    return (ref $cluster, $$cluster, $nodes[0]->name, $errors, names_by(Mail::Affinity->load($file)));
}

my @threads = map { threads->create({ context => 'list' }, \&in_thread) } 1 .. 4;
my $names   = names_by($cluster);
is_deeply([$_->join], ['SCALAR', undef, 'node1', 20, $names]) for @threads;
is(names_by($cluster), $names, 'the threads that ended left it alone');

done_testing;
