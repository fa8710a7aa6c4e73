# The module has what the header declares, and uses all of it.

use strict;
use warnings;

use FindBin;
use Test::More;

use lib "$FindBin::Bin/lib";
use Site;
use Mail::Affinity;

(my $code = read_file(repository('include/mailaffinity.h'))) =~ s{/\*.*?\*/}{}gs;
my %define = $code =~ /^#define (MAILAFFINITY_\w+) +(\d+) *$/mg;
$code =~ s/^(#|extern "C"|typedef|\}).*$//mg;

sub platypus_type {
    my ($type) = @_;
    return
          $type eq 'const char *'                    ? 'string'
        : $type eq 'char *'                          ? 'opaque'
        : $type =~ /^(const )?mailaffinity_\w+ \*$/  ? 'opaque'
        : $type =~ /^mailaffinity_\w+ \*\*$/         ? 'opaque*'
        : $type =~ /^(int|size_t|uint32|void)(?:_t)?( \*)?$/ ? $1 . ($2 ? '*' : '')
        :                                              "not known: $type";
}

my %declared;
while ($code =~ /\G\s*([\w ]+?[ *]+)(\w+)\(([^)]*)\);/gc) {
    my ($result, $name, $parameters) = ($1, $2, $3);
    s/\s+$// for $result;
    my @types = map { my $type = $_; $type =~ s/^\s+|\w+$//g; $type =~ s/ $//; $type } split /,/, $parameters;
    $declared{$name} = [[map { platypus_type($_) } $parameters eq 'void' ? () : @types] => platypus_type($result)];
}
like(substr($code, pos $code), qr/^\s*$/, 'all of the header is understood');
cmp_ok(scalar keys %declared, '>', 20, 'there are functions');
is_deeply(\%Mail::Affinity::FUNCTION, \%declared, 'the module has all functions, with their types');

is(Mail::Affinity::ABI_VERSION(),   $define{MAILAFFINITY_ABI_VERSION});
is(Mail::Affinity::OK(),            $define{MAILAFFINITY_OK});
is(Mail::Affinity::ERROR_NO_NODE(), $define{MAILAFFINITY_ERROR_NO_NODE});
is($Mail::Affinity::VERSION, Mail::Affinity::library_version(), 'module and library are of one release');

# What is public reaches each function.
my %called;
for my $name (keys %declared) {
    no strict 'refs';
    no warnings 'redefine';
    my $function = \&{"Mail::Affinity::C::$name"};
    *{"Mail::Affinity::C::$name"} = sub { $called{$name}++; goto &$function };
}
Mail::Affinity->load(configure());
Mail::Affinity->new(nodes => [{ address => '10.0.0.1' }]);
my $cluster = Mail::Affinity->from_mail_servers('10.0.0.1');
$cluster->node('anna');
$cluster->node_of_hash(1);
exception(sub { $cluster->node('anna', "\xff") });
Mail::Affinity::username_hash('anna');
Mail::Affinity::hash_user_group_modulo('anna', 3);
Mail::Affinity::hash_user_group_ring('anna', 3);
Mail::Affinity::library_version();
my $site = Mail::Affinity::Site->new(configure());
$site->node('anna');
$site->cluster;
undef $cluster;
undef $site;
delete $declared{mailaffinity_abi_version};    # by loading: library.t
is_deeply([sort keys %called], [sort keys %declared], 'all functions are called');

done_testing;
