#!/usr/bin/perl
# Usage: plain_update.pl USERS ACCESS
#
# What an administrator would write for the job of `mailaffinity update`: the ring of
# three nodes, a QGRP: entry for each user, and makemap.
use strict;
use warnings;
use Digest::MD5 qw(md5);

my ($users, $access) = @ARGV;
my @ring;
for my $node (1 .. 3) {
    push @ring, map { [unpack('N', md5("192.0.2.$node-$_")), "node${node}group"] } 0 .. 99;
}
@ring = sort { $a->[0] <=> $b->[0] } @ring;
my @points = map { $_->[0] } @ring;

open my $in,  '<', $users  or die "$users: $!";
open my $out, '>', $access or die "$access: $!";
while (my $user = <$in>) {
    chomp $user;
    my $hash = unpack('N', md5(lc $user));
    my ($first, $last) = (0, scalar @points);
    while ($first < $last) {
        my $middle = ($first + $last) >> 1;
        if ($points[$middle] < $hash) { $first = $middle + 1 } else { $last = $middle }
    }
    print $out "QGRP:$user\@\t$ring[$first % @ring][1]\n";
}
close $out or die "$access: $!";
system("makemap hash $access <$access") == 0 or die "makemap failed";
