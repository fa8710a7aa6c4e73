/* Many threads look up in one cluster, and find what one thread finds. */

#define _POSIX_C_SOURCE 200809L

#include <mailaffinity.h>

#include <pthread.h>

#include "check.h"

enum { THREADS = 8, USERS = 500, ROUNDS = 2 };

static const mailaffinity_cluster *shared;
static size_t expected[USERS];
static pthread_barrier_t start;

static size_t node_of_user(int number)
{
    char user[32], text[8];
    size_t node;

    snprintf(user, sizeof user, "User%d@example.org", number);
    CHECK(mailaffinity_lookup(shared, user, strlen(user), NULL, &node) == MAILAFFINITY_OK);
    CHECK(mailaffinity_lookup(shared, user, strlen(user), "nosuch", &node) == MAILAFFINITY_ERROR_NO_NODE);
    CHECK(mailaffinity_username_hash("%x", user, strlen(user), NULL, text, sizeof text) != MAILAFFINITY_OK);
    CHECK(mailaffinity_node_address(shared, node) != NULL);
    return node;
}

static void *look_up(void *first_user)
{
    int first = *(int *)first_user, round, i;

    pthread_barrier_wait(&start);
    for (round = 0; round < ROUNDS; round++)
        for (i = 0; i < USERS; i++) {
            int user = (first + i) % USERS;
            CHECK(node_of_user(user) == expected[user]);
        }
    return NULL;
}

int main(void)
{
    mailaffinity_cluster *cluster;
    pthread_t threads[THREADS];
    int first_users[THREADS], i;

    CHECK(mailaffinity_cluster_from_mail_servers("10.0.0.1-10.0.0.16", MAILAFFINITY_RING, "%Ln", &cluster, NULL, 0)
          == MAILAFFINITY_OK);
    shared = cluster;
    for (i = 0; i < USERS; i++)
        expected[i] = node_of_user(i);

    CHECK(pthread_barrier_init(&start, NULL, THREADS) == 0);
    for (i = 0; i < THREADS; i++) {
        first_users[i] = i * USERS / THREADS;
        CHECK(pthread_create(&threads[i], NULL, look_up, &first_users[i]) == 0);
    }
    for (i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(pthread_barrier_destroy(&start) == 0);
    mailaffinity_cluster_free(cluster);
    return 0;
}
