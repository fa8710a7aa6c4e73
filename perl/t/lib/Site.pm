package Site;

# A cluster's files for the tests, in a folder that goes when the test ends.

use strict;
use warnings;

use Exporter qw(import);
use File::Temp qw(tempdir);
use FindBin;

# Every test takes all.
our @EXPORT = qw(configure exception folder program read_file repository write_file);    ## no critic (ProhibitAutomaticExportation)

my $folder;

sub folder {
    return $folder //= tempdir('mailaffinity-XXXXXX', TMPDIR => 1, CLEANUP => 1);
}

# A file of the repository.
sub repository { return "$FindBin::Bin/../../$_[0]" }

sub write_file {
    my ($name, $text) = @_;
    my $path = folder() . "/$name";
    open my $file, '>:raw', $path or die "$path: $!";
    print {$file} $text;
    close $file or die "$path: $!";
    return $path;
}

sub read_file {
    my ($path) = @_;
    open my $file, '<:raw', $path or die "$path: $!";
    local $/;
    return scalar readline $file;
}

# Three nodes, their state in nodes.toml, and these lines before them.
sub configure {
    my ($more) = @_;
    my $text = 'node_state = "' . folder() . qq(/nodes.toml"\n) . ($more // '');
    for my $i (1 .. 3) {
        $text .= <<"NODE";
[[node]]
name = "node$i"
address = "10.0.0.$i"
queue_group = "node${i}group"
host = "node$i.example.org"
NODE
    }
    return write_file('mailaffinity.toml', $text);
}

# The path of a program; without it the test fails.
sub program {
    my ($name) = @_;
    for my $path (map { "$_/$name" } split(/:/, $ENV{PATH}), '/usr/local/sbin', '/usr/sbin') {
        return $path if -x $path;
    }
    die "the program $name is missing; see TEST_PACKAGES in the Makefile, and PATH\n";
}

# What the code dies of.
sub exception {
    my ($code) = @_;
    return eval { $code->(); 1 } ? '' : $@;
}

1;
