# Installed as any Perl module, with its documentation.

use strict;
use warnings;

use Config;
use File::Copy qw(copy);
use FindBin;
use Pod::Checker;
use Test::More;

use lib "$FindBin::Bin/lib";
use Site;

my $folder = folder();
mkdir "$folder/$_" or die "$folder/$_: $!" for qw(lib lib/Mail);
for my $file (qw(Makefile.PL lib/Mail/Affinity.pm)) {
    copy(repository("perl/$file"), "$folder/$file") or die "$file: $!";
}
# This may be run by a `make` with other wishes.
delete @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS PERL_MM_OPT PERL_MB_OPT)};
my $make = "$Config{make} -C $folder";
for my $step ("cd $folder && $^X Makefile.PL INSTALL_BASE=/usr/local", $make, "$make install DESTDIR=$folder/root") {
    is(system("{ $step; } >$folder/log 2>&1"), 0, $step) or diag read_file("$folder/log");
}
my $module = "$folder/root/usr/local/lib/perl5/Mail/Affinity.pm";
is(read_file($module), read_file(repository('perl/lib/Mail/Affinity.pm')));
ok(-s "$folder/root/usr/local/man/man3/Mail::Affinity.$Config{man3ext}", 'a manual page');

for my $pod ($module, repository('perl/construct_qgroups')) {
    my $checker = Pod::Checker->new(-warnings => 2);
    open my $complaints, '>', \my $text or die $!;
    $checker->parse_from_file($pod, $complaints);
    is($checker->num_errors + $checker->num_warnings, 0, "the documentation in $pod") or diag $text;
}

# All that is public is documented.
my $text = read_file($module);
my ($code, $pod) = split /^__END__$/m, $text;
my @headings = $pod =~ /^=(?:head2|item) (.*)$/mg;
for my $name (grep { !/^(?:_|DESTROY$|CLONE$|CLONE_SKIP$|STORABLE_freeze$)/ } $code =~ /^sub (\w+)/mg) {
    next if $name eq 'add_node';    # of the builder, which is not public
    ok((grep { /\b$name\b/ } @headings), "$name is documented");
}

done_testing;
