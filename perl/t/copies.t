# Copies of a cluster: refused, or of no use, and harmless.

use strict;
use warnings;

use Data::Dumper;
use FindBin;
use Storable qw(dclone freeze thaw);
use Test::More;

use lib "$FindBin::Bin/lib";
use Site;
use Mail::Affinity;

my $file    = configure();
my $cluster = Mail::Affinity->load($file);
my $node    = $cluster->node('anna')->name;

my $freed = 0;
{
    no warnings 'redefine';
    my $free = \&Mail::Affinity::C::mailaffinity_cluster_free;
    *Mail::Affinity::C::mailaffinity_cluster_free = sub { $freed++ if defined $_[0]; goto &$free };
}

for my $copy (\&dclone, \&freeze) {
    like(exception(sub { $copy->({ cluster => $cluster }) }), qr/^a cluster cannot be copied; load it again at /);
}

# What asks no object whether it may be copied, as Clone does.
sub copy {
    my ($cluster) = @_;
    my $copy;
    eval Data::Dumper->Dump([$cluster], ['copy']);    ## no critic (ProhibitStringyEval)
    return $copy;
}

sub questions_fail {
    my ($copy) = @_;
    isa_ok($copy, 'Mail::Affinity');
    for my $question (sub { $copy->node('anna') }, sub { $copy->node_of_hash(1) }) {
        like(exception($question), qr/^this is a copy of a cluster, which cannot be used; load it again at /);
    }
    return;
}

questions_fail(copy($cluster));
is($freed, 0, 'a copy that ends frees nothing');
is($cluster->node('anna')->name, $node);

my $site = Mail::Affinity::Site->new($file);
for my $copy (\&dclone, \&freeze) {
    like(exception(sub { $copy->({ site => $site }) }), qr/^a site cannot be copied; open it again at /);
}
my $copy = copy($site);
isa_ok($copy, 'Mail::Affinity::Site');
for my $question (sub { $copy->node('anna') }, sub { $copy->cluster }) {
    like(exception($question), qr/^this is a copy of a site, which cannot be used; open it again at /);
}
undef $copy;
is($site->node('anna')->name, $node, 'a copy that ends closes nothing');

is_deeply(dclone([$cluster->nodes]), [$cluster->nodes], 'nodes can be copied');

done_testing;
