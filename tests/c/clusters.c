/* Clusters of mail servers and of nodes one by one, lookups, and what nodes say. */

#include <mailaffinity.h>

#include "check.h"

static char detail[300];

static mailaffinity_cluster *of_mail_servers(const char *mail_servers, int strategy, const char *username_hash)
{
    mailaffinity_cluster *cluster = NULL;

    CHECK(mailaffinity_cluster_from_mail_servers(mail_servers, strategy, username_hash, &cluster, detail,
                                                 sizeof detail) == MAILAFFINITY_OK);
    CHECK_STRING(detail, "");
    CHECK(cluster != NULL);
    return cluster;
}

static mailaffinity_builder *builder_of(int strategy)
{
    mailaffinity_builder *builder = NULL;

    CHECK(mailaffinity_builder_new(strategy, NULL, &builder, detail, sizeof detail) == MAILAFFINITY_OK);
    CHECK_STRING(detail, "");
    CHECK(builder != NULL);
    return builder;
}

static void add(mailaffinity_builder *builder, const char *address, uint32_t vhost_count, const char *tag,
                const char *state)
{
    CHECK(mailaffinity_builder_add_node(builder, NULL, address, vhost_count, tag, state, detail, sizeof detail)
          == MAILAFFINITY_OK);
    CHECK_STRING(detail, "");
}

static mailaffinity_cluster *build(const mailaffinity_builder *builder)
{
    mailaffinity_cluster *cluster = NULL;

    CHECK(mailaffinity_builder_build(builder, &cluster, detail, sizeof detail) == MAILAFFINITY_OK);
    CHECK_STRING(detail, "");
    CHECK(cluster != NULL);
    return cluster;
}

/* The address of a user's node, "-" if there is none. */
static const char *address_of(const mailaffinity_cluster *cluster, const char *user, const char *tag)
{
    size_t node = 77;
    int error = mailaffinity_lookup(cluster, user, strlen(user), tag, &node);

    if (error == MAILAFFINITY_ERROR_NO_NODE) {
        CHECK(node == 77);
        return "-";
    }
    CHECK(error == MAILAFFINITY_OK);
    return mailaffinity_node_address(cluster, node);
}

static const char *address_of_hash(const mailaffinity_cluster *cluster, uint32_t hash)
{
    size_t node;

    CHECK(mailaffinity_lookup_hash(cluster, hash, "", &node) == MAILAFFINITY_OK);
    return mailaffinity_node_address(cluster, node);
}

/* tests/director/ring-3.tsv, hash-ring-3.tsv */
static void ring(void)
{
    mailaffinity_cluster *cluster = of_mail_servers("10.0.0.1 10.0.0.2 10.0.0.3", MAILAFFINITY_RING, NULL);

    CHECK_STRING(address_of(cluster, "yves42", NULL), "10.0.0.3");
    CHECK_STRING(address_of(cluster, "yves_x", NULL), "10.0.0.1");
    CHECK_STRING(address_of(cluster, "ALicEMuller", ""), "10.0.0.2");
    CHECK_STRING(address_of(cluster, "\xc3\xbc", ""), "10.0.0.1");
    CHECK_STRING(address_of(cluster, "\xe6\x97\xa5\xe6\x9c\xac", ""), "10.0.0.3");
    CHECK_STRING(address_of_hash(cluster, 1), "10.0.0.3");
    CHECK_STRING(address_of_hash(cluster, 196552292), "10.0.0.2");
    mailaffinity_cluster_free(cluster);
}

/* tests/director/direct-3.tsv */
static void modulo(void)
{
    mailaffinity_cluster *cluster = of_mail_servers("10.0.0.1-10.0.0.3", MAILAFFINITY_MODULO, "%Lu");

    CHECK_STRING(address_of(cluster, "walter42", NULL), "10.0.0.1");
    CHECK_STRING(address_of(cluster, "maRia@10.iN-adDr.ExAmPlE", NULL), "10.0.0.2");
    CHECK_STRING(address_of(cluster, "@example.com", NULL), "10.0.0.3");
    CHECK_STRING(address_of(cluster, "\xc4\xb0", NULL), "10.0.0.2");
    mailaffinity_cluster_free(cluster);
}

/* tests/director/ring-tags.tsv */
static void tags(void)
{
    mailaffinity_builder *builder = builder_of(MAILAFFINITY_RING);
    mailaffinity_cluster *cluster;

    add(builder, "10.0.0.1", 100, NULL, "up");
    add(builder, "10.0.0.2", 100, "", "up");
    add(builder, "10.0.0.3", 100, "east", "up");
    add(builder, "10.0.0.4", 100, "east", "up");
    add(builder, "10.0.0.5", 100, "west", "up");
    add(builder, "10.0.0.6", 0, "zero", "up");
    add(builder, "10.0.0.7", 100, "East", "up");
    add(builder, "10.0.0.8", 100, "off", "down");
    add(builder, "10.0.0.9", 20, "east", "up");
    cluster = build(builder);
    mailaffinity_builder_free(builder);

    CHECK_STRING(address_of(cluster, "yves42", NULL), "10.0.0.1");
    CHECK_STRING(address_of(cluster, "yves42", ""), "10.0.0.1");
    CHECK_STRING(address_of(cluster, "yves42", "east"), "10.0.0.3");
    CHECK_STRING(address_of(cluster, "niaj4906", "east"), "10.0.0.4");
    CHECK_STRING(address_of(cluster, "yves42", "west"), "10.0.0.5");
    CHECK_STRING(address_of(cluster, "yves42", "East"), "10.0.0.7");
    CHECK_STRING(address_of(cluster, "yves42", "zero"), "-");
    CHECK_STRING(address_of(cluster, "yves42", "off"), "-");
    CHECK_STRING(address_of(cluster, "yves42", "nosuch"), "-");

    CHECK(mailaffinity_node_count(cluster) == 9);
    CHECK_STRING(mailaffinity_node_tag(cluster, 0), "");
    CHECK_STRING(mailaffinity_node_tag(cluster, 6), "East");
    CHECK(mailaffinity_node_vhost_count(cluster, 5) == 0);
    CHECK(mailaffinity_node_vhost_count(cluster, 7) == 100);
    CHECK(mailaffinity_node_vhost_count(cluster, 8) == 20);
    CHECK_STRING(mailaffinity_node_state(cluster, 0), "up");
    CHECK_STRING(mailaffinity_node_state(cluster, 7), "down");
    mailaffinity_cluster_free(cluster);
}

/* A name with a NUL or a high byte is all of its bytes. */
static void usernames_are_bytes(void)
{
    mailaffinity_cluster *cluster = of_mail_servers("10.0.0.1-10.0.0.64", MAILAFFINITY_RING, "%u");
    const char *names[] = {"a\0b", "a\0c", "\xff\xfe\x00", "\0\0\0"};
    size_t node, node_of_hash, i;
    uint32_t hash;

    for (i = 0; i < sizeof names / sizeof names[0]; i++) {
        CHECK(mailaffinity_lookup(cluster, names[i], 3, NULL, &node) == MAILAFFINITY_OK);
        CHECK(mailaffinity_username_hash("%u", names[i], 3, &hash, NULL, 0) == MAILAFFINITY_OK);
        CHECK(mailaffinity_lookup_hash(cluster, hash, NULL, &node_of_hash) == MAILAFFINITY_OK);
        CHECK(node == node_of_hash);
    }
    CHECK(mailaffinity_lookup(cluster, NULL, 0, NULL, &node) == MAILAFFINITY_OK);
    CHECK(mailaffinity_lookup(cluster, "x", 0, NULL, &node_of_hash) == MAILAFFINITY_OK);
    CHECK(node == node_of_hash);
    mailaffinity_cluster_free(cluster);
}

static void names_resolve(void)
{
    mailaffinity_cluster *cluster = of_mail_servers("localhost@here", MAILAFFINITY_RING, NULL);

    CHECK(mailaffinity_node_count(cluster) >= 1);
    CHECK_STRING(mailaffinity_node_name(cluster, 0), "localhost");
    CHECK_STRING(mailaffinity_node_tag(cluster, 0), "here");
    CHECK_STRING(mailaffinity_node_host(cluster, 0), mailaffinity_node_address(cluster, 0));
    CHECK(strcmp(address_of(cluster, "user1", "here"), "-") != 0);
    mailaffinity_cluster_free(cluster);
}

static void nodes(void)
{
    mailaffinity_builder *builder = builder_of(MAILAFFINITY_RING);
    mailaffinity_cluster *cluster;

    CHECK(mailaffinity_builder_add_node(builder, "n\xc5\x93ud", "2001:0DB8:0:0:0:0:0:2", 7, "east", "up", NULL, 0)
          == MAILAFFINITY_OK);
    add(builder, "010.0.0.1", 100, NULL, NULL);
    cluster = build(builder);
    mailaffinity_builder_free(builder);

    CHECK(mailaffinity_node_count(cluster) == 2);
    CHECK_STRING(mailaffinity_node_name(cluster, 0), "n\xc5\x93ud");
    CHECK_STRING(mailaffinity_node_address(cluster, 0), "2001:db8::2");
    CHECK_STRING(mailaffinity_node_tag(cluster, 0), "east");
    CHECK_STRING(mailaffinity_node_host(cluster, 0), "2001:db8::2");
    CHECK(mailaffinity_node_queue_group(cluster, 0) == NULL);
    CHECK(mailaffinity_node_vhost_count(cluster, 0) == 7);
    CHECK_STRING(mailaffinity_node_state(cluster, 0), "up");
    CHECK_STRING(mailaffinity_node_name(cluster, 1), "10.0.0.1");

    CHECK(mailaffinity_node_name(cluster, 2) == NULL);
    CHECK(mailaffinity_node_address(cluster, 2) == NULL);
    CHECK(mailaffinity_node_tag(cluster, SIZE_MAX) == NULL);
    CHECK(mailaffinity_node_host(cluster, 2) == NULL);
    CHECK(mailaffinity_node_queue_group(cluster, 2) == NULL);
    CHECK(mailaffinity_node_vhost_count(cluster, 2) == 0);
    CHECK(mailaffinity_node_state(cluster, SIZE_MAX) == NULL);
    mailaffinity_cluster_free(cluster);

    CHECK(mailaffinity_node_count(NULL) == 0);
    CHECK(mailaffinity_node_name(NULL, 0) == NULL);
    CHECK(mailaffinity_node_address(NULL, 0) == NULL);
    CHECK(mailaffinity_node_tag(NULL, 0) == NULL);
    CHECK(mailaffinity_node_host(NULL, 0) == NULL);
    CHECK(mailaffinity_node_queue_group(NULL, 0) == NULL);
    CHECK(mailaffinity_node_vhost_count(NULL, 0) == 0);
    CHECK(mailaffinity_node_state(NULL, 0) == NULL);
}

/* A builder can build again, with more, and be freed first. Arguments are copied. */
static void building_twice(void)
{
    mailaffinity_builder *builder = builder_of(MAILAFFINITY_RING);
    mailaffinity_cluster *one, *same, *both;
    char address[] = "10.0.0.1";

    add(builder, address, 100, NULL, "up");
    memset(address, '#', strlen(address));
    one = build(builder);
    same = build(builder);
    CHECK(one != same);
    add(builder, "10.0.0.2", 100, NULL, "up");
    both = build(builder);
    mailaffinity_builder_free(builder);

    CHECK(mailaffinity_node_count(one) == 1);
    mailaffinity_cluster_free(one);
    CHECK(mailaffinity_node_count(same) == 1);
    CHECK_STRING(mailaffinity_node_name(same, 0), "10.0.0.1");
    mailaffinity_cluster_free(same);
    CHECK(mailaffinity_node_count(both) == 2);
    mailaffinity_cluster_free(both);
}

static void mail_servers_errors(void)
{
    mailaffinity_cluster *untouched = (mailaffinity_cluster *)detail, *cluster = untouched;

#define REFUSED(mail_servers, strategy, username_hash, out) \
    mailaffinity_cluster_from_mail_servers(mail_servers, strategy, username_hash, out, detail, sizeof detail)
    CHECK(REFUSED(NULL, MAILAFFINITY_RING, NULL, &cluster) == MAILAFFINITY_ERROR_NULL);
    CHECK_STRING(detail, "mail_servers is NULL");
    CHECK(REFUSED("10.0.0.1", MAILAFFINITY_RING, NULL, NULL) == MAILAFFINITY_ERROR_NULL);
    CHECK_STRING(detail, "cluster_out is NULL");
    CHECK(REFUSED("10.0.0.1", 2, NULL, &cluster) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK_STRING(detail, "2 is not a strategy");
    CHECK(REFUSED("10.0.0.1", -1, NULL, &cluster) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK(REFUSED("10.0.0.1@\xff", MAILAFFINITY_RING, NULL, &cluster) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK_STRING(detail, "mail_servers is not UTF-8");
    CHECK(REFUSED("10.0.0.1", MAILAFFINITY_RING, "%x", &cluster) == MAILAFFINITY_ERROR_USERNAME_HASH);
    CHECK_CONTAINS(detail, "%x");
    CHECK(REFUSED("", MAILAFFINITY_RING, NULL, &cluster) == MAILAFFINITY_ERROR_MAIL_SERVERS);
    CHECK_CONTAINS(detail, "empty");
    CHECK(REFUSED("10.0.0.2-10.0.0.1", MAILAFFINITY_RING, NULL, &cluster) == MAILAFFINITY_ERROR_MAIL_SERVERS);
    CHECK_CONTAINS(detail, "10.0.0.2-10.0.0.1");
    CHECK(REFUSED("no-such-host.invalid", MAILAFFINITY_RING, NULL, &cluster) == MAILAFFINITY_ERROR_MAIL_SERVERS);
    CHECK_CONTAINS(detail, "no-such-host.invalid");
#undef REFUSED
    CHECK(cluster == untouched);
}

static void builder_errors(void)
{
    mailaffinity_builder *unbuilt = (mailaffinity_builder *)detail, *builder = unbuilt;
    mailaffinity_cluster *untouched = (mailaffinity_cluster *)detail, *cluster = untouched;

    CHECK(mailaffinity_builder_new(MAILAFFINITY_RING, NULL, NULL, detail, sizeof detail) == MAILAFFINITY_ERROR_NULL);
    CHECK_STRING(detail, "builder_out is NULL");
    CHECK(mailaffinity_builder_new(7, NULL, &builder, detail, sizeof detail) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK_STRING(detail, "7 is not a strategy");
    CHECK(mailaffinity_builder_new(MAILAFFINITY_RING, "%{nosuch}", &builder, detail, sizeof detail)
          == MAILAFFINITY_ERROR_USERNAME_HASH);
    CHECK_CONTAINS(detail, "%{nosuch}");
    CHECK(builder == unbuilt);

    builder = builder_of(MAILAFFINITY_MODULO);
#define REFUSED(builder, name, address, tag, state) \
    mailaffinity_builder_add_node(builder, name, address, 100, tag, state, detail, sizeof detail)
    CHECK(REFUSED(NULL, NULL, "10.0.0.1", NULL, NULL) == MAILAFFINITY_ERROR_NULL);
    CHECK_STRING(detail, "builder is NULL");
    CHECK(REFUSED(builder, NULL, NULL, NULL, NULL) == MAILAFFINITY_ERROR_NULL);
    CHECK_STRING(detail, "address is NULL");
    CHECK(REFUSED(builder, NULL, "node1", NULL, NULL) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK_STRING(detail, "\"node1\" is not an IP address");
    CHECK(REFUSED(builder, NULL, "\xff", NULL, NULL) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK_STRING(detail, "address is not UTF-8");
    CHECK(REFUSED(builder, "\xff", "10.0.0.1", NULL, NULL) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK_STRING(detail, "name is not UTF-8");
    CHECK(REFUSED(builder, NULL, "10.0.0.1", "\xff", NULL) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK_STRING(detail, "tag is not UTF-8");
    CHECK(REFUSED(builder, NULL, "10.0.0.1", NULL, "Up") == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK_STRING(detail, "\"Up\" is not the state of a node, which is \"up\" or \"down\"");
#undef REFUSED

    /* None of those is in it. */
    CHECK(mailaffinity_builder_build(builder, &cluster, detail, sizeof detail) == MAILAFFINITY_ERROR_CLUSTER);
    CHECK_CONTAINS(detail, "at least one node");
    add(builder, "10.0.0.1", UINT32_MAX, NULL, "up");
    CHECK(mailaffinity_builder_build(builder, &cluster, detail, sizeof detail) == MAILAFFINITY_ERROR_CLUSTER);
    CHECK_CONTAINS(detail, "vhosts");
    CHECK(mailaffinity_builder_build(builder, NULL, detail, sizeof detail) == MAILAFFINITY_ERROR_NULL);
    CHECK_STRING(detail, "cluster_out is NULL");
    CHECK(mailaffinity_builder_build(NULL, &cluster, detail, sizeof detail) == MAILAFFINITY_ERROR_NULL);
    CHECK_STRING(detail, "builder is NULL");
    CHECK(cluster == untouched);

    mailaffinity_builder_free(builder);
    mailaffinity_builder_free(NULL);
    mailaffinity_cluster_free(NULL);
}

static void lookup_errors(void)
{
    mailaffinity_cluster *cluster = of_mail_servers("10.0.0.1", MAILAFFINITY_RING, NULL);
    size_t node = 77;

    CHECK(mailaffinity_lookup(NULL, "user1", 5, NULL, &node) == MAILAFFINITY_ERROR_NULL);
    CHECK(mailaffinity_lookup(cluster, NULL, 5, NULL, &node) == MAILAFFINITY_ERROR_NULL);
    CHECK(mailaffinity_lookup(cluster, "user1", 5, NULL, NULL) == MAILAFFINITY_ERROR_NULL);
    CHECK(mailaffinity_lookup(cluster, "user1", SIZE_MAX, NULL, &node) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK(mailaffinity_lookup(cluster, "user1", 5, "\xff", &node) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK(mailaffinity_lookup(cluster, "user1", 5, "east", &node) == MAILAFFINITY_ERROR_NO_NODE);
    CHECK(mailaffinity_lookup_hash(NULL, 1, NULL, &node) == MAILAFFINITY_ERROR_NULL);
    CHECK(mailaffinity_lookup_hash(cluster, 1, NULL, NULL) == MAILAFFINITY_ERROR_NULL);
    CHECK(mailaffinity_lookup_hash(cluster, 1, "\xff", &node) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK(mailaffinity_lookup_hash(cluster, 1, "east", &node) == MAILAFFINITY_ERROR_NO_NODE);
    CHECK(node == 77);
    mailaffinity_cluster_free(cluster);
}

int main(void)
{
    ring();
    modulo();
    tags();
    usernames_are_bytes();
    names_resolve();
    nodes();
    building_twice();
    mail_servers_errors();
    builder_errors();
    lookup_errors();
    return 0;
}
