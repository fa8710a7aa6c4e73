/*
 * How long libmailaffinity takes to find the node of a user, beside what Dovecot's own
 * library takes for the user's hash alone (mail_user_hash(), which the Director calls
 * before it searches its ring).
 *
 * Both take turns in one run, and the ratio of their medians is what counts: a machine's
 * speed changes from one second to the next.
 */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <mailaffinity.h>

enum { USERS = 1000, PASSES = 200, ROUNDS = 21 };

typedef bool mail_user_hash_function(const char *username, const char *format, unsigned *hash_r,
                                     const char **error_r);

static char users[USERS][32];
static mailaffinity_cluster *clusters[2];
static mail_user_hash_function *mail_user_hash;
static unsigned long long sum;

static void look_up(const mailaffinity_cluster *cluster)
{
    size_t node = 0;
    for (int user = 0; user < USERS; user++) {
        if (mailaffinity_lookup(cluster, users[user], strlen(users[user]), "", &node) != MAILAFFINITY_OK)
            exit(1);
        sum += node;
    }
}

static void ring_of_3(void) { look_up(clusters[0]); }
static void ring_of_64(void) { look_up(clusters[1]); }

static void dovecot(void)
{
    unsigned hash;
    const char *error;
    for (int user = 0; user < USERS; user++) {
        if (!mail_user_hash(users[user], "%Lu", &hash, &error))
            exit(1);
        sum += hash;
    }
}

static double nanoseconds_each(void (*work)(void))
{
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int pass = 0; pass < PASSES; pass++)
        work();
    clock_gettime(CLOCK_MONOTONIC, &end);
    return ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) / (PASSES * USERS);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void *symbol(void *library, const char *name)
{
    void *found = dlsym(library, name);
    if (found == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return found;
}

int main(void)
{
    static const struct {
        const char *name;
        void (*work)(void);
    } contests[] = {
        {"Dovecot's mail_user_hash(), no lookup", dovecot},
        {"mailaffinity_lookup(), ring of 3 hosts", ring_of_3},
        {"mailaffinity_lookup(), ring of 64 hosts", ring_of_64},
    };
    enum { CONTESTS = sizeof contests / sizeof contests[0] };
    static const char *const mail_servers[] = {"192.0.2.1-192.0.2.3", "192.0.2.1-192.0.2.64"};
    double times[CONTESTS][ROUNDS];
    void (*lib_init)(void), *library = dlopen("/usr/lib/dovecot/libdovecot.so.0", RTLD_NOW);

    if (library == NULL) {
        fprintf(stderr, "%s (Debian package: dovecot-core)\n", dlerror());
        return 1;
    }
    *(void **)&lib_init = symbol(library, "lib_init");
    *(void **)&mail_user_hash = symbol(library, "mail_user_hash");
    lib_init();
    for (int i = 0; i < 2; i++)
        if (mailaffinity_cluster_from_mail_servers(mail_servers[i], MAILAFFINITY_RING, NULL, &clusters[i], NULL, 0))
            return 1;
    for (int user = 0; user < USERS; user++)
        snprintf(users[user], sizeof users[user], "User%d@example.org", user);

    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < CONTESTS; i++)
            times[i][round] = nanoseconds_each(contests[i].work);
    for (int i = 0; i < CONTESTS; i++)
        qsort(times[i], ROUNDS, sizeof times[i][0], compare);
    printf("%-42s %8s %8s\n", "", "ns", "ratio");
    for (int i = 0; i < CONTESTS; i++)
        printf("%-42s %8.0f %8.2f\n", contests[i].name, times[i][ROUNDS / 2],
               times[i][ROUNDS / 2] / times[0][ROUNDS / 2]);
    for (int i = 0; i < 2; i++)
        mailaffinity_cluster_free(clusters[i]);
    return sum == 0;
}
