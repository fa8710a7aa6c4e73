/*
 * How long libmailaffinity takes to find the node of a user, beside a plain C program that
 * does it with OpenSSL's MD5() and a binary search, and beside what Dovecot's own library
 * takes for the user's hash alone (mail_user_hash(), which the Director calls before it
 * searches its ring, and which Dovecot 2.4 does not have any more).
 *
 * All take turns in one run, and the ratio of their medians is what counts: a machine's
 * speed changes from one second to the next.
 */
#define _POSIX_C_SOURCE 200809L
#define OPENSSL_SUPPRESS_DEPRECATED
#include <ctype.h>
#include <dlfcn.h>
#include <openssl/md5.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <mailaffinity.h>

enum { USERS = 20000, PASSES = 10, ROUNDS = 21, MOST_HOSTS = 64, VHOSTS = 100 };

typedef bool mail_user_hash_function(const char *username, const char *format, unsigned *hash_r,
                                     const char **error_r);

struct vhost {
    uint32_t hash;
    size_t host;
};

struct ring {
    size_t hosts;
    struct vhost vhosts[MOST_HOSTS * VHOSTS];
    mailaffinity_cluster *cluster;
};

static char users[USERS][32];
static struct ring rings[] = {{.hosts = 3}, {.hosts = MOST_HOSTS}};
enum { RINGS = sizeof rings / sizeof rings[0] };
static mail_user_hash_function *mail_user_hash;
static unsigned long long sum;

static size_t library(const struct ring *ring, const char *user)
{
    size_t host = 0;
    if (mailaffinity_lookup(ring->cluster, user, strlen(user), "", &host) != MAILAFFINITY_OK)
        exit(1);
    return host;
}

static uint32_t md5_start(const char *text, size_t len)
{
    unsigned char digest[MD5_DIGEST_LENGTH];
    MD5((const unsigned char *)text, len, digest);
    return (uint32_t)digest[0] << 24 | (uint32_t)digest[1] << 16 | (uint32_t)digest[2] << 8 | digest[3];
}

static size_t openssl(const struct ring *ring, const char *user)
{
    char lower[sizeof users[0]];
    size_t len = 0, left = 0, vhosts = ring->hosts * VHOSTS, right = vhosts;
    for (; user[len] != '\0'; len++)
        lower[len] = (char)tolower((unsigned char)user[len]);
    uint32_t hash = md5_start(lower, len);
    while (left < right) {
        size_t middle = (left + right) / 2;
        if (ring->vhosts[middle].hash < hash)
            left = middle + 1;
        else
            right = middle;
    }
    return ring->vhosts[left == vhosts ? 0 : left].host;
}

static void look_up(size_t find(const struct ring *, const char *), const struct ring *ring)
{
    for (int user = 0; user < USERS; user++)
        sum += find(ring, users[user]);
}

static void library_ring_of_3(void) { look_up(library, &rings[0]); }
static void library_ring_of_64(void) { look_up(library, &rings[1]); }
static void openssl_ring_of_3(void) { look_up(openssl, &rings[0]); }
static void openssl_ring_of_64(void) { look_up(openssl, &rings[1]); }

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

static int compare_vhosts(const void *a, const void *b)
{
    uint32_t x = ((const struct vhost *)a)->hash, y = ((const struct vhost *)b)->hash;
    return (x > y) - (x < y);
}

static void build(struct ring *ring)
{
    char text[64];
    snprintf(text, sizeof text, "192.0.2.1-192.0.2.%zu", ring->hosts);
    if (mailaffinity_cluster_from_mail_servers(text, MAILAFFINITY_RING, NULL, &ring->cluster, NULL, 0))
        exit(1);
    for (size_t i = 0; i < ring->hosts * VHOSTS; i++) {
        int len = snprintf(text, sizeof text, "192.0.2.%zu-%zu", i / VHOSTS + 1, i % VHOSTS);
        ring->vhosts[i] = (struct vhost){md5_start(text, (size_t)len), i / VHOSTS};
    }
    qsort(ring->vhosts, ring->hosts * VHOSTS, sizeof ring->vhosts[0], compare_vhosts);
    for (int user = 0; user < USERS; user++)
        if (library(ring, users[user]) != openssl(ring, users[user]))
            exit(1);
}

/* NULL, with a word on standard error, where this Dovecot has no mail_user_hash(). */
static mail_user_hash_function *find_mail_user_hash(void)
{
    void *libdovecot = dlopen("/usr/lib/dovecot/libdovecot.so.0", RTLD_NOW);
    void (*lib_init)(void), *found[2] = {NULL, NULL};
    mail_user_hash_function *function;

    if (libdovecot != NULL) {
        found[0] = dlsym(libdovecot, "lib_init");
        found[1] = dlsym(libdovecot, "mail_user_hash");
    }
    if (found[0] == NULL || found[1] == NULL) {
        fprintf(stderr, "Without Dovecot's mail_user_hash(), which Dovecot 2.3 has (Debian package: dovecot-core): %s\n",
                dlerror());
        return NULL;
    }
    *(void **)&lib_init = found[0];
    *(void **)&function = found[1];
    lib_init();
    return function;
}

int main(void)
{
    static const struct {
        const char *name;
        void (*work)(void);
        int peer;
    } contests[] = {
        {"OpenSSL's MD5(), ring of 3 hosts", openssl_ring_of_3, 0},
        {"mailaffinity_lookup(), ring of 3 hosts", library_ring_of_3, 0},
        {"OpenSSL's MD5(), ring of 64 hosts", openssl_ring_of_64, 2},
        {"mailaffinity_lookup(), ring of 64 hosts", library_ring_of_64, 2},
        {"Dovecot's mail_user_hash(), no lookup", dovecot, 4},
        {"mailaffinity_lookup(), ring of 64 hosts", library_ring_of_64, 4},
    };
    enum { ALL = sizeof contests / sizeof contests[0] };
    double times[ALL][ROUNDS];
    int count = ALL;

    /* The last two are about Dovecot's. */
    mail_user_hash = find_mail_user_hash();
    if (mail_user_hash == NULL)
        count -= 2;
    for (int user = 0; user < USERS; user++)
        snprintf(users[user], sizeof users[user], "User%d@example.org", user);
    for (int i = 0; i < RINGS; i++)
        build(&rings[i]);

    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < count; i++)
            times[i][round] = nanoseconds_each(contests[i].work);
    for (int i = 0; i < count; i++)
        qsort(times[i], ROUNDS, sizeof times[i][0], compare);
    printf("%-42s %8s %8s\n", "", "ns", "ratio");
    for (int i = 0; i < count; i++)
        printf("%-42s %8.0f %8.2f\n", contests[i].name, times[i][ROUNDS / 2],
               times[i][ROUNDS / 2] / times[contests[i].peer][ROUNDS / 2]);
    for (int i = 0; i < RINGS; i++)
        mailaffinity_cluster_free(rings[i].cluster);
    return sum == 0;
}
