/* A site that is followed while its files change: they are in the folder named by the only
 * argument, which is empty at first. */

#define _POSIX_C_SOURCE 200809L

#include <mailaffinity.h>

#include <pthread.h>

#include "check.h"

enum { THREADS = 4, ROUNDS = 10 };

static const char *folder;
static char detail[1000];

/* As an editor does it that others need not wait for: by rename. */
static void replace(const char *name, const char *text)
{
    char path[4096], new_path[4096];
    FILE *file;

    CHECK(snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path);
    CHECK(snprintf(new_path, sizeof new_path, "%s/new", folder) < (int)sizeof new_path);
    file = fopen(new_path, "w");
    CHECK(file != NULL);
    CHECK(fputs(text, file) >= 0 && fclose(file) == 0);
    CHECK(rename(new_path, path) == 0);
}

/* Two nodes, each with a queue group, and lines that come before them. */
static void configure(const char *lines)
{
    char text[8192];
    int size = snprintf(text, sizeof text,
        "node_state = \"%s/nodes.toml\"\n%s\n"
        "[[node]]\nname = \"node1\"\naddress = \"10.0.0.1\"\nqueue_group = \"node1group\"\n"
        "[[node]]\nname = \"node2\"\naddress = \"10.0.0.2\"\nqueue_group = \"node2group\"\nhost = \"node2.example.org\"\n"
        "[[node]]\nname = \"far\"\naddress = \"10.0.0.9\"\ntag = \"far\"\n",
        folder, lines);

    CHECK(size < (int)sizeof text);
    replace("mailaffinity.toml", text);
}

static mailaffinity_site *open_site(void)
{
    mailaffinity_site *site;
    char path[4096];

    CHECK(snprintf(path, sizeof path, "%s/mailaffinity.toml", folder) < (int)sizeof path);
    CHECK(mailaffinity_site_open(path, &site, detail, sizeof detail) == MAILAFFINITY_OK);
    return site;
}

/* Checks user1's node, and returns what is told. */
static const char *told_of(const mailaffinity_site *site, const char *node_name)
{
    mailaffinity_cluster *cluster;
    size_t node;
    int error = mailaffinity_site_lookup(site, "user1", 5, &cluster, &node, detail, sizeof detail);

    if (error != MAILAFFINITY_OK)
        fprintf(stderr, "%d: %s\n", error, detail);
    CHECK(error == MAILAFFINITY_OK);
    CHECK_STRING(mailaffinity_node_name(cluster, node), node_name);
    mailaffinity_cluster_free(cluster);
    return detail;
}

static int refused(const mailaffinity_site *site, const char *user, size_t user_len)
{
    mailaffinity_cluster *untouched = (mailaffinity_cluster *)detail, *cluster = untouched;
    size_t node = 77;
    int error = mailaffinity_site_lookup(site, user, user_len, &cluster, &node, detail, sizeof detail);

    CHECK(error != MAILAFFINITY_OK);
    CHECK(cluster == untouched && node == 77);
    return error;
}

static void arguments(void)
{
    mailaffinity_site *site;
    mailaffinity_cluster *cluster;
    size_t node;
    char name[1024];
    int error;

    CHECK(mailaffinity_site_open("/x", NULL, detail, sizeof detail) == MAILAFFINITY_ERROR_NULL);
    CHECK_STRING(detail, "site_out is NULL");
    CHECK(mailaffinity_site_open("x", &site, detail, sizeof detail) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK_STRING(detail, "x is not an absolute path");
    /* This machine may or may not have a configuration. */
    CHECK(mailaffinity_site_open(NULL, &site, NULL, 0) == MAILAFFINITY_OK);
    mailaffinity_site_close(site);
    mailaffinity_site_close(NULL);

    configure("");
    site = open_site();
    CHECK_STRING(detail, "");
    CHECK(refused(NULL, "user1", 5) == MAILAFFINITY_ERROR_NULL);
    CHECK_STRING(detail, "site is NULL");
    CHECK(refused(site, NULL, 5) == MAILAFFINITY_ERROR_NULL);
    CHECK(mailaffinity_site_lookup(site, "user1", 5, NULL, &node, NULL, 0) == MAILAFFINITY_ERROR_NULL);
    CHECK(mailaffinity_site_lookup(site, "user1", 5, &cluster, NULL, NULL, 0) == MAILAFFINITY_ERROR_NULL);
    CHECK(mailaffinity_site_cluster(NULL, &cluster, NULL, 0) == MAILAFFINITY_ERROR_NULL);
    CHECK(mailaffinity_site_cluster(site, NULL, NULL, 0) == MAILAFFINITY_ERROR_NULL);

    /* Whatever anybody can type. */
    CHECK(mailaffinity_site_lookup(site, NULL, 0, &cluster, &node, NULL, 0) == MAILAFFINITY_OK);
    mailaffinity_cluster_free(cluster);
    memset(name, '\xff', sizeof name);
    error = mailaffinity_site_lookup(site, name, 1023, &cluster, &node, NULL, 0);
    CHECK(error == MAILAFFINITY_OK);
    mailaffinity_cluster_free(cluster);
    CHECK(refused(site, name, 1024) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK_CONTAINS(detail, "longer than 1023 bytes");
    mailaffinity_site_close(site);
}

static void changes_count_at_once(void)
{
    mailaffinity_site *site;
    mailaffinity_cluster *before;
    size_t node;

    configure("");
    site = open_site();
    CHECK(mailaffinity_site_lookup(site, "user1", 5, &before, &node, detail, sizeof detail) == MAILAFFINITY_OK);
    CHECK_STRING(detail, "");

    /* MD5("user1") = 24c9e15e...: node2 of these two. */
    CHECK_STRING(mailaffinity_node_name(before, node), "node2");
    CHECK_STRING(mailaffinity_node_state(before, node), "up");
    replace("nodes.toml", "[node.node2]\nstate = \"down\"\n");
    CHECK_STRING(told_of(site, "node1"), "");
    replace("nodes.toml", "# all are up\n");
    CHECK_STRING(told_of(site, "node2"), "");
    replace("nodes.toml", "[node.node1]\nstate = \"down\"\n[node.node2]\nstate = \"down\"\n");
    CHECK(refused(site, "user1", 5) == MAILAFFINITY_ERROR_NO_NODE);
    CHECK_STRING(detail, "no node without a tag is up");
    configure("tag = \"far\"");
    CHECK_STRING(told_of(site, "far"), "");

    /* What was given stays as it is. */
    CHECK_STRING(mailaffinity_node_state(before, node), "up");
    mailaffinity_site_close(site);
    CHECK_STRING(mailaffinity_node_host(before, node), "node2.example.org");
    CHECK_STRING(mailaffinity_node_queue_group(before, node), "node2group");
    mailaffinity_cluster_free(before);
    replace("nodes.toml", "# all are up\n");
}

static void what_breaks_does_not_count(void)
{
    mailaffinity_site *site;
    mailaffinity_cluster *cluster;
    size_t node;

    configure("");
    site = open_site();
    CHECK_STRING(told_of(site, "node2"), "");
    replace("mailaffinity.toml", "[[node");
    CHECK_CONTAINS(told_of(site, "node2"), "mailaffinity.toml:1: ");
    CHECK_CONTAINS(detail, "; the last good configuration stays in force");
    CHECK_STRING(told_of(site, "node2"), "");
    replace("nodes.toml", "[node");
    CHECK_CONTAINS(told_of(site, "node2"), "nodes.toml: not a node state: ");
    CHECK(strstr(detail, "mailaffinity.toml") == NULL);
    replace("nodes.toml", "[node.node2]\nstate = \"down\"\n");
    CHECK_STRING(told_of(site, "node1"), "");
    replace("nodes.toml", "[node.node1]\nstate = \"down\"\n[node.node2]\nstate = \"down\"\n");
    /* Each time, and all that is wrong. */
    for (node = 0; node < 2; node++) {
        CHECK(refused(site, "user1", 5) == MAILAFFINITY_ERROR_NO_NODE);
        CHECK_CONTAINS(detail, "no node without a tag is up; ");
        CHECK_CONTAINS(detail, "; the last good configuration stays in force");
    }
    replace("nodes.toml", "# all are up\n");
    mailaffinity_site_close(site);

    /* Who comes new has nothing, until it is mended. */
    site = open_site();
    CHECK_CONTAINS(detail, "; there is no good configuration to use");
    CHECK(refused(site, "user1", 5) == MAILAFFINITY_ERROR_CONFIG);
    CHECK_CONTAINS(detail, "; there is no good configuration to use");
    CHECK(mailaffinity_site_cluster(site, &cluster, detail, sizeof detail) == MAILAFFINITY_ERROR_CONFIG);
    configure("");
    CHECK_STRING(told_of(site, "node2"), "");
    mailaffinity_site_close(site);
}

static void the_map_comes_first(void)
{
    mailaffinity_site *site;
    mailaffinity_cluster *cluster;
    size_t node;
    char lines[4096];

    CHECK(snprintf(lines, sizeof lines, "access_map.map = \"text:%s/access\"", folder) < (int)sizeof lines);
    replace("access", "QGRP:user1@ node1group\n");
    configure(lines);
    site = open_site();
    CHECK_STRING(told_of(site, "node1"), "");

    /* The mapping's own answer, with any tag. */
    CHECK(mailaffinity_site_cluster(site, &cluster, detail, sizeof detail) == MAILAFFINITY_OK);
    CHECK_STRING(detail, "");
    CHECK(mailaffinity_lookup(cluster, "user1", 5, NULL, &node) == MAILAFFINITY_OK);
    CHECK_STRING(mailaffinity_node_name(cluster, node), "node2");
    CHECK(mailaffinity_lookup(cluster, "user1", 5, "far", &node) == MAILAFFINITY_OK);
    CHECK_STRING(mailaffinity_node_address(cluster, node), "10.0.0.9");
    mailaffinity_cluster_free(cluster);

    replace("nodes.toml", "[node.node1]\nstate = \"down\"\n");
    CHECK_CONTAINS(told_of(site, "node2"), "node \"node1\" is down, but a user is mapped to it");
    CHECK_STRING(told_of(site, "node2"), "");
    replace("nodes.toml", "# all are up\n");
    mailaffinity_site_close(site);
}

static const mailaffinity_site *shared;

/* The node is one of the two, and that which it was in the cluster of the answer. */
static void *look_up(void *is_over)
{
    mailaffinity_cluster *cluster;
    size_t node, of_mapping;

    do {
        CHECK(mailaffinity_site_lookup(shared, "user1", 5, &cluster, &node, NULL, 0) == MAILAFFINITY_OK);
        CHECK(mailaffinity_lookup(cluster, "user1", 5, NULL, &of_mapping) == MAILAFFINITY_OK);
        CHECK(node == of_mapping);
        CHECK_STRING(mailaffinity_node_state(cluster, node), "up");
        mailaffinity_cluster_free(cluster);
    } while (!__atomic_load_n((int *)is_over, __ATOMIC_ACQUIRE));
    return NULL;
}

/* Threads look up while the files change. */
static void threads(void)
{
    mailaffinity_site *site;
    pthread_t threads[THREADS];
    int is_over = 0, round, i;

    configure("");
    shared = site = open_site();
    for (i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, look_up, &is_over) == 0);
    for (round = 0; round < ROUNDS; round++) {
        replace("nodes.toml", round % 2 ? "[node.node2]\nstate = \"down\"\n" : "[node.node1]\nstate = \"down\"\n");
        replace("mailaffinity.toml", "[[node");
        configure("");
    }
    __atomic_store_n(&is_over, 1, __ATOMIC_RELEASE);
    for (i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    told_of(site, "node1");
    replace("nodes.toml", "# all are up\n");
    told_of(site, "node2");
    mailaffinity_site_close(site);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    folder = argv[1];
    arguments();
    changes_count_at_once();
    what_breaks_does_not_count();
    the_map_comes_first();
    threads();
    return 0;
}
