/* The host of each user on standard input, from libmailaffinity. */
#include <stdio.h>
#include <string.h>

#include <mailaffinity.h>

int main(int argc, char **argv)
{
    mailaffinity_cluster *cluster;
    char detail[256], user[1024];
    int error;

    if (argc != 2) {
        fprintf(stderr, "usage: map CONFIG <USERS\n");
        return 64;
    }
    error = mailaffinity_cluster_load(argv[1], &cluster, detail, sizeof detail);
    if (error != MAILAFFINITY_OK) {
        fprintf(stderr, "map: %s: %s\n", mailaffinity_strerror(error), detail);
        return 78;
    }
    while (fgets(user, sizeof user, stdin) != NULL) {
        size_t length = strcspn(user, "\n"), node;
        error = mailaffinity_lookup(cluster, user, length, NULL, &node);
        puts(error == MAILAFFINITY_OK ? mailaffinity_node_host(cluster, node) : mailaffinity_strerror(error));
    }
    mailaffinity_cluster_free(cluster);
    return 0;
}
