/* Clusters from configurations: the files that tests/c_library.rs wrote to the folder
 * named by the only argument. */

#define _POSIX_C_SOURCE 200809L

#include <mailaffinity.h>

#include <pthread.h>

#include "check.h"

static char detail[300];

/* A path in the folder; valid until the next call. */
static const char *path_of(const char *folder, const char *name)
{
    static char path[4096];

    CHECK(snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path);
    return path;
}

static int refused(const char *config_path)
{
    mailaffinity_cluster *untouched = (mailaffinity_cluster *)detail, *cluster = untouched;
    int error = mailaffinity_cluster_load(config_path, &cluster, detail, sizeof detail);

    CHECK(error != MAILAFFINITY_OK);
    CHECK(cluster == untouched);
    return error;
}

static void as_configured(const char *folder)
{
    mailaffinity_cluster *cluster;
    size_t node = 77;
    char name[1024];

    CHECK(mailaffinity_cluster_load(path_of(folder, "mailaffinity.toml"), &cluster, detail, sizeof detail)
          == MAILAFFINITY_OK);
    CHECK_STRING(detail, "");
    CHECK(mailaffinity_node_count(cluster) == 3);

    CHECK_STRING(mailaffinity_node_name(cluster, 0), "node1");
    CHECK_STRING(mailaffinity_node_address(cluster, 0), "10.0.0.1");
    CHECK_STRING(mailaffinity_node_tag(cluster, 0), "east");
    CHECK_STRING(mailaffinity_node_host(cluster, 0), "node1.example.org");
    CHECK_STRING(mailaffinity_node_queue_group(cluster, 0), "node1group");
    CHECK(mailaffinity_node_vhost_count(cluster, 0) == 50);
    CHECK_STRING(mailaffinity_node_state(cluster, 0), "up");

    CHECK_STRING(mailaffinity_node_host(cluster, 1), "2001:db8::2");
    CHECK(mailaffinity_node_queue_group(cluster, 1) == NULL);
    CHECK_STRING(mailaffinity_node_state(cluster, 1), "down");

    /* The default tag is east, and one of its two nodes is down. */
    CHECK(mailaffinity_lookup(cluster, "user1", 5, NULL, &node) == MAILAFFINITY_OK);
    CHECK(node == 0);
    CHECK(mailaffinity_lookup(cluster, "user1", 5, "east", &node) == MAILAFFINITY_OK);
    CHECK(node == 0);
    CHECK(mailaffinity_lookup(cluster, "user1", 5, "", &node) == MAILAFFINITY_OK);
    CHECK(node == 2);
    CHECK(mailaffinity_lookup_hash(cluster, 1, NULL, &node) == MAILAFFINITY_OK);
    CHECK(node == 0);

    /* Whatever anybody can type. */
    memset(name, 'x', sizeof name);
    CHECK(mailaffinity_lookup(cluster, name, 1023, NULL, &node) == MAILAFFINITY_OK);
    node = 77;
    CHECK(mailaffinity_lookup(cluster, name, 1024, NULL, &node) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK(mailaffinity_lookup(cluster, name, 1024, "nowhere", &node) == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK(node == 77);

    /* The files are read once. */
    CHECK(remove(path_of(folder, "nodes.toml")) == 0);
    CHECK_STRING(mailaffinity_node_state(cluster, 1), "down");
    mailaffinity_cluster_free(cluster);

    /* Without a node state all are up. */
    CHECK(mailaffinity_cluster_load(path_of(folder, "mailaffinity.toml"), &cluster, NULL, 0) == MAILAFFINITY_OK);
    CHECK_STRING(mailaffinity_node_state(cluster, 1), "up");
    mailaffinity_cluster_free(cluster);
}

/* What is broken, and was kept when it was good. */
static void last_good_copies(const char *folder)
{
    mailaffinity_cluster *cluster;

    CHECK(mailaffinity_cluster_load(path_of(folder, "kept.toml"), &cluster, detail, sizeof detail)
          == MAILAFFINITY_OK);
    CHECK_CONTAINS(detail, "kept.toml:1: ");
    CHECK_CONTAINS(detail, "; the last good copy ");
    CHECK(mailaffinity_node_count(cluster) == 3);
    CHECK_STRING(mailaffinity_node_state(cluster, 0), "up");
    CHECK_STRING(mailaffinity_node_state(cluster, 1), "down");
    mailaffinity_cluster_free(cluster);
}

static void errors(const char *folder)
{
    mailaffinity_cluster *cluster;
    int error;

    CHECK(refused(path_of(folder, "missing.toml")) == MAILAFFINITY_ERROR_CONFIG);
    CHECK_CONTAINS(detail, "missing.toml: cannot read");
    CHECK(refused(path_of(folder, "unknown-key.toml")) == MAILAFFINITY_ERROR_CONFIG);
    CHECK_CONTAINS(detail, "unknown-key.toml:2: ");
    CHECK(refused(path_of(folder, "no-nodes.toml")) == MAILAFFINITY_ERROR_CONFIG);
    CHECK(refused(path_of(folder, "broken-state.toml")) == MAILAFFINITY_ERROR_NODE_STATE);
    CHECK_CONTAINS(detail, "broken-nodes.toml: not a node state");
    CHECK(refused("") == MAILAFFINITY_ERROR_CONFIG);
    CHECK(refused("\xff") == MAILAFFINITY_ERROR_CONFIG);

    CHECK(mailaffinity_cluster_load("", NULL, detail, sizeof detail) == MAILAFFINITY_ERROR_NULL);
    CHECK_STRING(detail, "cluster_out is NULL");

    /* This machine may or may not have a configuration. */
    error = mailaffinity_cluster_load(NULL, &cluster, detail, sizeof detail);
    if (error == MAILAFFINITY_OK)
        mailaffinity_cluster_free(cluster);
    else
        CHECK_CONTAINS(detail, "/");
    if (error == MAILAFFINITY_ERROR_CONFIG)
        CHECK_CONTAINS(detail, "/etc/mailaffinity.toml:");
}

static void *too_deep(void *folder)
{
    CHECK(refused(path_of(folder, "deep.toml")) == MAILAFFINITY_ERROR_CONFIG);
    CHECK_CONTAINS(detail, "recursion");
    return folder;
}

/* However deep a file is, the stack that libmailaffinity(3) names is enough. */
static void small_stack(char *folder)
{
    pthread_attr_t attributes;
    pthread_t thread;

    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, 512 * 1024) == 0);
    CHECK(pthread_create(&thread, &attributes, too_deep, folder) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(pthread_attr_destroy(&attributes) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    as_configured(argv[1]);
    last_good_copies(argv[1]);
    errors(argv[1]);
    small_stack(argv[1]);
    return 0;
}
