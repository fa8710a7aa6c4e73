package Mail::Affinity;

use strict;
use warnings;

use Carp qw(carp croak);
use Exporter qw(import);
use FFI::Platypus 2.00;
use FFI::Platypus::Buffer qw(grow scalar_to_pointer);
use FFI::Platypus::DL qw(dlopen dlerror RTLD_PLATYPUS_DEFAULT);
use Scalar::Util qw(refaddr);

our $VERSION   = '0.1.0';
our @CARP_NOT  = qw(Mail::Affinity::Builder Mail::Affinity::Site);
our @EXPORT_OK = qw(username_hash hash_user_group_modulo hash_user_group_ring library_version);

# What mailaffinity.h declares.
use constant {
    ABI_VERSION   => 0,
    OK            => 0,
    ERROR_NO_NODE => 8,
};
my %STRATEGY = (ring => 0, modulo => 1);

# Parameters and results, in Platypus' words.
our %FUNCTION = (
    mailaffinity_abi_version => [[] => 'uint32'],
    mailaffinity_version     => [[] => 'string'],
    mailaffinity_strerror    => [['int'] => 'string'],

    hash_user_group_modulo     => [['string', 'int'] => 'int'],
    hash_user_group_ring       => [['string', 'int'] => 'int'],
    mailaffinity_username_hash => [['string', 'string', 'size_t', 'uint32*', 'opaque', 'size_t'] => 'int'],

    mailaffinity_cluster_load              => [['string', 'opaque*', 'opaque', 'size_t'] => 'int'],
    mailaffinity_cluster_from_mail_servers =>
        [['string', 'int', 'string', 'opaque*', 'opaque', 'size_t'] => 'int'],
    mailaffinity_cluster_free => [['opaque'] => 'void'],

    mailaffinity_builder_new      => [['int', 'string', 'opaque*', 'opaque', 'size_t'] => 'int'],
    mailaffinity_builder_add_node =>
        [['opaque', 'string', 'string', 'uint32', 'string', 'string', 'opaque', 'size_t'] => 'int'],
    mailaffinity_builder_build => [['opaque', 'opaque*', 'opaque', 'size_t'] => 'int'],
    mailaffinity_builder_free  => [['opaque'] => 'void'],

    mailaffinity_site_open   => [['string', 'opaque*', 'opaque', 'size_t'] => 'int'],
    mailaffinity_site_lookup =>
        [['opaque', 'string', 'size_t', 'opaque*', 'size_t*', 'opaque', 'size_t'] => 'int'],
    mailaffinity_site_cluster => [['opaque', 'opaque*', 'opaque', 'size_t'] => 'int'],
    mailaffinity_site_close   => [['opaque'] => 'void'],

    mailaffinity_lookup      => [['opaque', 'string', 'size_t', 'string', 'size_t*'] => 'int'],
    mailaffinity_lookup_hash => [['opaque', 'uint32', 'string', 'size_t*'] => 'int'],

    mailaffinity_node_count       => [['opaque'] => 'size_t'],
    mailaffinity_node_name        => [['opaque', 'size_t'] => 'string'],
    mailaffinity_node_address     => [['opaque', 'size_t'] => 'string'],
    mailaffinity_node_tag         => [['opaque', 'size_t'] => 'string'],
    mailaffinity_node_host        => [['opaque', 'size_t'] => 'string'],
    mailaffinity_node_queue_group => [['opaque', 'size_t'] => 'string'],
    mailaffinity_node_vhost_count => [['opaque', 'size_t'] => 'uint32'],
    mailaffinity_node_state       => [['opaque', 'size_t'] => 'string'],
);

# The functions are those of the package Mail::Affinity::C, by their names in C.
sub _attach_library {
    my $library = 'libmailaffinity.so.' . ABI_VERSION;

    # Never closed: a thread that ends would close it for the others.
    dlopen($library, RTLD_PLATYPUS_DEFAULT)
        or croak 'Mail::Affinity: cannot load the library ', dlerror(),
        '; install it, or name its folder in LD_LIBRARY_PATH';
    my $ffi    = FFI::Platypus->new(api => 2, lib => $library);
    my $attach = sub { $ffi->attach([$_ => "Mail::Affinity::C::$_"] => @{ $FUNCTION{$_} }) for @_ };
    $attach->('mailaffinity_abi_version');
    my $abi = Mail::Affinity::C::mailaffinity_abi_version();
    croak "Mail::Affinity: $library has the ABI $abi, and this module is for ", ABI_VERSION, '; update both'
        if $abi != ABI_VERSION;
    $attach->(grep { $_ ne 'mailaffinity_abi_version' } keys %FUNCTION);
    return;
}
_attach_library();

# Clusters.

sub load {
    my ($class, $file) = @_;
    return $class->_cluster(\&Mail::Affinity::C::mailaffinity_cluster_load, _text(file => $file));
}

sub from_mail_servers {
    my ($class, $mail_servers, %option) = @_;
    croak 'mail_servers is undefined' if !defined $mail_servers;
    my @rules = _take_rules(\%option);
    _none_left(\%option);
    return $class->_cluster(\&Mail::Affinity::C::mailaffinity_cluster_from_mail_servers,
        _text(mail_servers => $mail_servers), @rules);
}

sub new {
    my ($class, %option) = @_;
    my @rules = _take_rules(\%option);
    my $nodes = delete $option{nodes} // [];
    _none_left(\%option);
    my $builder = Mail::Affinity::Builder->new(@rules);
    $builder->add_node(%$_) for @$nodes;
    return $class->_cluster(\&Mail::Affinity::C::mailaffinity_builder_build, $$builder);
}

# The clusters and sites in C, by the addresses of their objects here. In the object itself, a
# copy (dclone, Clone, Data::Dumper) would have the same, to be freed a second time.
my %handle;

sub _object {
    my ($class, $handle) = @_;
    my $self = bless {}, $class;
    $handle{ refaddr $self } = $handle;
    return $self;
}

sub _handle {
    my ($self, $what, $again) = @_;
    return $handle{ refaddr $self } // croak "this is a copy of a $what, which cannot be used; $again it again";
}

sub _take_handle { return delete $handle{ refaddr $_[0] } }

sub _cluster {
    my ($class, $function, @arguments) = @_;
    _call($function, @arguments, \my $handle);
    return _cluster_of($class, $handle);
}

# A cluster never changes, so its nodes can be read at once.
sub _cluster_of {
    my ($class, $handle) = @_;
    my $self  = _object($class, $handle);
    my $count = Mail::Affinity::C::mailaffinity_node_count($handle);
    $self->{nodes} = [map { Mail::Affinity::Node->_new($handle, $_) } 0 .. $count - 1];
    return $self;
}

sub DESTROY {
    my ($self) = @_;
    Mail::Affinity::C::mailaffinity_cluster_free(_take_handle($self));
    return;
}

# A new thread has neither the objects nor what belongs to them.
sub CLONE_SKIP { return 1 }

sub CLONE {
    %handle = ();
    return;
}

sub STORABLE_freeze { croak 'a cluster cannot be copied; load it again' }

sub node {
    my ($self, $user, $tag) = @_;
    $user = _bytes(user => $user);
    return $self->_lookup(\&Mail::Affinity::C::mailaffinity_lookup, $user, length $user, _text(tag => $tag));
}

sub node_of_hash {
    my ($self, $hash, $tag) = @_;
    return $self->_lookup(\&Mail::Affinity::C::mailaffinity_lookup_hash,
        _uint32(hash => $hash), _text(tag => $tag));
}

sub _lookup {
    my ($self, $function, @arguments) = @_;
    my $handle = _handle($self, cluster => 'load');
    my $error  = $function->($handle, @arguments, \my $number);
    return $self->{nodes}[$number] if $error == OK;
    return undef if $error == ERROR_NO_NODE;
    croak Mail::Affinity::C::mailaffinity_strerror($error);
}

sub nodes {
    my ($self) = @_;
    return @{ $self->{nodes} };
}

# Functions.

sub username_hash {
    my ($user, $format) = @_;
    $user = _bytes(user => $user);
    _call(\&Mail::Affinity::C::mailaffinity_username_hash,
        _text(username_hash => $format), $user, length $user, \my $hash);
    return $hash;
}

sub hash_user_group_modulo {
    my ($user, $vnodes) = @_;
    return Mail::Affinity::C::hash_user_group_modulo(_text(user => _bytes(user => $user)), _vnodes($vnodes));
}

sub hash_user_group_ring {
    my ($user, $vnodes) = @_;
    return Mail::Affinity::C::hash_user_group_ring(_text(user => _bytes(user => $user)), _vnodes($vnodes));
}

sub library_version {
    return Mail::Affinity::C::mailaffinity_version();
}

# From Perl to C.

# Calls a function that takes a detail; whether there is a node, where that is the question.
sub _call {
    my ($function, @arguments) = @_;
    my $size = 4096;
    grow(my $detail, $size);
    my $error = $function->(@arguments, scalar_to_pointer($detail), $size);
    $detail = unpack 'Z*', $detail;
    if ($error == OK || $error == ERROR_NO_NODE) {
        carp $detail if length $detail;
        return $error == OK;
    }
    croak length $detail ? $detail : Mail::Affinity::C::mailaffinity_strerror($error);
}

# Platypus would pass on Perl's inner encoding.
sub _bytes {
    my ($what, $value) = @_;
    croak "$what is undefined" if !defined $value;
    my $bytes = "$value";
    utf8::downgrade($bytes, 1) or croak "$what has characters that are no bytes; encode it first";
    return $bytes;
}

# A string that C ends at a NUL; undef is NULL.
sub _text {
    my ($what, $value) = @_;
    return undef if !defined $value;
    my $text = _bytes($what, $value);
    croak "$what has a NUL" if $text =~ /\0/;
    return $text;
}

sub _uint32 {
    my ($what, $value) = @_;
    croak "$what is not a number from 0 to 4294967295"
        if !defined $value || $value !~ /\A[0-9]{1,10}\z/ || $value > 0xFFFF_FFFF;
    return $value;
}

sub _vnodes {
    my ($vnodes) = @_;
    croak 'vnodes is not a number from 1 to 2147483647'
        if !defined $vnodes || $vnodes !~ /\A[0-9]{1,10}\z/ || $vnodes < 1 || $vnodes > 0x7FFF_FFFF;
    return $vnodes;
}

# Strategy and username hash, as C takes them.
sub _take_rules {
    my ($option) = @_;
    my $strategy = delete $option->{strategy} // 'ring';
    croak qq(strategy is "ring" or "modulo", not "$strategy") if !exists $STRATEGY{$strategy};
    return ($STRATEGY{$strategy}, _text(username_hash => delete $option->{username_hash}));
}

sub _none_left {
    my ($option) = @_;
    croak 'unknown option ', join ', ', sort keys %$option if %$option;
    return;
}

## no critic (ProhibitMultiplePackages)
package Mail::Affinity::Builder;

our @CARP_NOT = qw(Mail::Affinity);

sub new {
    my ($class, @rules) = @_;
    Mail::Affinity::_call(\&Mail::Affinity::C::mailaffinity_builder_new, @rules, \my $handle);
    return bless \$handle, $class;
}

sub add_node {
    my ($self, %node) = @_;
    Mail::Affinity::_bytes(address => $node{address});
    my ($name, $address, $tag) = map { Mail::Affinity::_text($_ => delete $node{$_}) } qw(name address tag);
    my $vhost_count = Mail::Affinity::_uint32(vhost_count => delete $node{vhost_count} // 100);
    my $state       = Mail::Affinity::_text(state => delete $node{state});
    Mail::Affinity::_none_left(\%node);
    Mail::Affinity::_call(\&Mail::Affinity::C::mailaffinity_builder_add_node,
        $$self, $name, $address, $vhost_count, $tag, $state);
    return;
}

sub DESTROY {
    my ($self) = @_;
    Mail::Affinity::C::mailaffinity_builder_free($$self);
    return;
}

sub CLONE_SKIP { return 1 }

package Mail::Affinity::Site;

our @CARP_NOT = qw(Mail::Affinity);

sub new {
    my ($class, $file) = @_;
    Mail::Affinity::_call(\&Mail::Affinity::C::mailaffinity_site_open,
        Mail::Affinity::_text(file => $file), \my $handle);
    return Mail::Affinity::_object($class, $handle);
}

sub node {
    my ($self, $user) = @_;
    my $handle = Mail::Affinity::_handle($self, site => 'open');
    $user = Mail::Affinity::_bytes(user => $user);
    Mail::Affinity::_call(\&Mail::Affinity::C::mailaffinity_site_lookup,
        $handle, $user, length $user, \my $cluster, \my $number)
        or return undef;
    my $node = Mail::Affinity::Node->_new($cluster, $number);
    Mail::Affinity::C::mailaffinity_cluster_free($cluster);
    return $node;
}

sub cluster {
    my ($self) = @_;
    return Mail::Affinity->_cluster(\&Mail::Affinity::C::mailaffinity_site_cluster,
        Mail::Affinity::_handle($self, site => 'open'));
}

sub DESTROY {
    my ($self) = @_;
    Mail::Affinity::C::mailaffinity_site_close(Mail::Affinity::_take_handle($self));
    return;
}

sub CLONE_SKIP { return 1 }

sub STORABLE_freeze { Carp::croak('a site cannot be copied; open it again') }

package Mail::Affinity::Node;

sub _new {
    my ($class, $cluster, $number) = @_;
    return bless {
        number      => $number,
        name        => Mail::Affinity::C::mailaffinity_node_name($cluster, $number),
        address     => Mail::Affinity::C::mailaffinity_node_address($cluster, $number),
        tag         => Mail::Affinity::C::mailaffinity_node_tag($cluster, $number),
        host        => Mail::Affinity::C::mailaffinity_node_host($cluster, $number),
        queue_group => Mail::Affinity::C::mailaffinity_node_queue_group($cluster, $number),
        vhost_count => Mail::Affinity::C::mailaffinity_node_vhost_count($cluster, $number),
        state       => Mail::Affinity::C::mailaffinity_node_state($cluster, $number),
    }, $class;
}

sub number      { return $_[0]{number} }
sub name        { return $_[0]{name} }
sub address     { return $_[0]{address} }
sub tag         { return $_[0]{tag} }
sub host        { return $_[0]{host} }
sub queue_group { return $_[0]{queue_group} }
sub vhost_count { return $_[0]{vhost_count} }
sub state       { return $_[0]{state} }    ## no critic (ProhibitBuiltinHomonyms) it is a method

1;

__END__

=encoding UTF-8

=head1 NAME

Mail::Affinity - the node of a mail cluster that a user belongs to

=head1 SYNOPSIS

    use Mail::Affinity;

    my $cluster = Mail::Affinity->load;     # /etc/mailaffinity.toml
    my $node    = $cluster->node('anna')
        or die "no node is up\n";
    printf "%s %s %s\n", $node->name, $node->host, $node->queue_group // '-';

    # Users on standard input, their hosts on standard output:
    # perl -MMail::Affinity -lne 'BEGIN { $c = Mail::Affinity->load }
    #     $n = $c->node($_); print "$_\t", $n ? $n->host : "-"'

    # A program that runs for long: what is true at each question.
    my $site = Mail::Affinity::Site->new;
    while (my $user = <$requests>) {
        chomp $user;
        my $host = eval { $site->node($user)->host } // 'no node';
        print {$answers} "$host\n";
    }

    # A cluster without a configuration file:
    my $by_hand = Mail::Affinity->new(
        nodes => [
            { name => 'node1', address => '192.0.2.1' },
            { name => 'node2', address => '192.0.2.2', vhost_count => 50, state => 'down' },
        ],
    );

=head1 DESCRIPTION

The parts of a mail cluster agree on one node for each user when they all compute it as
Dovecot's Director does. This module gives Perl programs that answer. It calls the C
library F<libmailaffinity.so.0>, and has all that F<mailaffinity.h> declares.

A cluster is what the files said when it was loaded. It never changes, and the access map of
sendmail plays no part. A site follows the files: it is for programs that run for long.

=head1 CLUSTERS

Options and their values are those of the configuration file. What is left out, or
undefined, is at its default.

=head2 Mail::Affinity->load($file)

The cluster of a configuration file and the node state that it names. Without C<$file>,
that is F</etc/mailaffinity.toml>. Where one of the files is broken, its last good copy
takes its place, if the commands have kept one, and C<carp> says so.

=head2 Mail::Affinity->from_mail_servers($mail_servers, %options)

The cluster of a C<director_mail_servers> string, such as
C<"10.0.0.1-10.0.0.3 imap.example.org@east">: all nodes up, with 100 vhosts each. Names
are resolved through the system, which can take time. The options are C<strategy>,
C<"ring"> (the default) or C<"modulo">, and C<username_hash>, C<"%Lu"> by default.

=head2 Mail::Affinity->new(nodes => \@nodes, %options)

The cluster of these nodes. Each is a hash with C<address>, which is needed, and C<name>
(the address by default), C<vhost_count> (100), C<tag> (the empty one) and C<state> (C<"up">, or C<"down">).
The options are those of C<from_mail_servers>.

=head2 $cluster->node($user, $tag)

The node of a user among those with the tag that are up; C<undef> if there is none.
Without C<$tag>, that is the configuration's default tag. The empty tag is that of the
nodes without one. In a cluster that was loaded from a configuration, it is the node of
the name that authentication leaves (C<auth_username_format>).

=head2 $cluster->node_of_hash($hash, $tag)

The same for a user's 32-bit hash.

=head2 $cluster->nodes

All nodes, in the order in which they were configured or added.

=head1 SITES

=head2 Mail::Affinity::Site->new($file)

The site of a configuration file, by its absolute path; without C<$file>, of
F</etc/mailaffinity.toml>. Where the configuration cannot be used and has no last good copy,
C<carp> says so, and questions throw until it is mended.

=head2 $site->node($user)

The node that serves a user now, as the PHP function C<map_user_via_sendmail_access> finds it:
the one that the access map names, by its published answers if there are any, unless it is
down; else the one that the mapping gives among those that are up and have the
configuration's default tag. C<undef> if none is up.

Changes of the files count at the next question; what breaks does not count, and the last good
version is in force. C<carp> tells it, each thing at most once a minute, and why there is no
node.

=head2 $site->cluster

The cluster of what is in force now, for all else: its nodes, and the mapping's own answers.

=head1 NODES

What the methods of a cluster and of a site return. A node may outlive them.

=over

=item $node->number

Its place among the nodes, from 0.

=item $node->name

What the administrator calls it.

=item $node->address

The address under which the Director knows it.

=item $node->tag

Its tag, empty for none.

=item $node->host

The host that IMAP clients connect to: a name, or an address (IPv6 without brackets).

=item $node->queue_group

sendmail's queue group of its users; C<undef> if it has none.

=item $node->vhost_count

Its share of the users, relative to the other nodes; as many while it is down.

=item $node->state

C<"up"> or C<"down">.

=back

=head1 FUNCTIONS

They are exported on request.

=head2 username_hash($user, $format)

The 32-bit hash of a user, never 0. C<$format> is a C<director_username_hash>, C<"%Lu">
by default.

=head2 hash_user_group_modulo($user, $vnodes), hash_user_group_ring($user, $vnodes)

The vnode of a user, from 0 to C<$vnodes> - 1, by the two functions of
F<hash_user_group.c> in INFN-16-11/CCR. They hash the name as it stands, which can have
no NUL, and know no hosts: the method C<node> is what agrees with a Director.

=head2 library_version

The release of the library, such as C<0.1.0>.

=head1 BYTES

All strings are bytes, both those that go in and those that come out: usernames as they
came over the wire or from a file, all else in UTF-8. A username may have any bytes, NUL
included. A program that has decoded its input must encode it again:

    $cluster->node(Encode::encode('UTF-8', $user));

A character above 255 is an error. But one from 128 to 255 is taken for that byte; a
decoded C<"\xe9"> is another user than its UTF-8, C<"\xc3\xa9">.

=head1 ERRORS

Whatever goes wrong is thrown by C<croak>, with the library's own words, which name the
file and the line where there is one. That no node is up for a user is no error: the
method returns C<undef>. Loading the module dies if the library is missing or has
another ABI.

=head1 PROCESSES AND THREADS

After C<fork>, both processes can go on with a cluster or a site. It is not there in a new
thread (L<threads>): a reference to it is one to C<undef>. Each thread makes its own, and
nodes can be handed on.

Nor can they be copied: L<Storable> refuses to, and a copy made by other means, such
as L<Clone>, throws at every question. Nodes can be copied.

=head1 ENVIRONMENT

The library is found as any other: where the program loader looks, and in the folders of
C<LD_LIBRARY_PATH>.

=head1 SEE ALSO

L<mailaffinity(1)>, L<FFI::Platypus>

=head1 LICENSE

MIT

=cut
