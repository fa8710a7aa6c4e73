# What the Director answered, byte for byte, in every state it was asked in.

use strict;
use warnings;

use File::Glob qw(bsd_glob);
use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Site;
use Mail::Affinity qw(username_hash);

my %strategy = (ring => 'ring', direct => 'modulo', none => 'ring');

sub unescaped {
    my ($field) = @_;
    $field =~ s/%(..)/chr hex $1/ge;
    return $field;
}

sub answers {
    my ($header, $hosts, $lookups) = @_;
    my $format = $header->{username_hash};
    my %rules  = (username_hash => $format, strategy => $strategy{ $header->{strategy} });
    return map { '!TRYAGAIN' } @$lookups
        if exception(sub { username_hash('', $format) }) =~ /^username hash format/;

    my @nodes = map {
        my ($address, $vhost_count, $tag, $state) = split / /;
        +{  address     => $address,
            vhost_count => $vhost_count,
            tag         => $tag eq '-' ? '' : $tag,
            state       => $state,
        }
    } @$hosts;
    my $cluster = @nodes ? Mail::Affinity->new(%rules, nodes => \@nodes) : undef;

    return map {
        my ($key, $tag) = map { unescaped($_) } (split /\t/, $_, -1)[0, 1];
        my $node;
        if (($header->{value} // '') eq 'hash') {
            username_hash($key, $format);
        }
        else {
            $node = ($header->{key} // '') eq 'hash' ? $cluster->node_of_hash($key, $tag) : $cluster->node($key, $tag)
                if $cluster;
            $node ? $node->address : '-';
        }
    } @$lookups;
}

my $checked = 0;
for my $file (bsd_glob repository('tests/director/*.tsv')) {
    my (%header, @hosts, %lookups);
    for (split /\n/, read_file($file)) {
        if (/^# (\S+) =(?: (.*))?$/) {
            push @hosts, $2 if $1 eq 'host';
            $header{$1} = $2 // '';
        }
        else {
            my $format = $header{columns} && s/^([^\t]*)\t// ? $1 : $header{username_hash};
            push @{ $lookups{$format} }, $_;
        }
    }
    for my $format (sort keys %lookups) {
        my @lookups = @{ $lookups{$format} };
        my @answers = answers({ %header, username_hash => $format }, \@hosts, \@lookups);
        my @got     = map { join "\t", (split /\t/, $lookups[$_], -1)[0, 1], $answers[$_] } 0 .. $#lookups;
        is_deeply(\@got, \@lookups, "$file $format");
        $checked += @lookups;
    }
}
cmp_ok($checked, '>', 15_000, 'lookups');

done_testing;
