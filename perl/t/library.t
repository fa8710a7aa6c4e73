# The library is found by its SONAME, and must be there and have the ABI.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Site;

# The module in a Perl of its own, with these folders of libraries.
sub load_with {
    my ($folders) = @_;
    local $ENV{LD_LIBRARY_PATH} = $folders;
    my @command = ($^X, (map { "-I$_" } @INC), '-e', 'require Mail::Affinity; print "loaded\n"');
    my $quoted = join ' ', map { quotemeta } @command;
    return scalar qx{$quoted 2>&1};
}

is(load_with($ENV{LD_LIBRARY_PATH} // ''), "loaded\n");

write_file('other.c', "unsigned mailaffinity_abi_version(void) { return 1; }\n");
system('cc', '-shared', '-fPIC', '-o', folder() . '/libmailaffinity.so.0', folder() . '/other.c') == 0
    or die "cc fails\n";
like(load_with(folder()), qr/^Mail::Affinity: libmailaffinity\.so\.0 has the ABI 1, and this module is for 0/);

write_file('libmailaffinity.so.0', "no library\n");
like(load_with(folder()), qr/^Mail::Affinity: cannot load the library \S*libmailaffinity\.so\.0: /);

done_testing;
