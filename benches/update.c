/* Usage: update MAILAFFINITY PLAIN_UPDATE.PL FOLDER
 *
 * The time and memory that `mailaffinity update` takes beside a plain Perl script with
 * makemap, round by round in one run: medians, and their ratios to the script's. An
 * update that changes much (a node went down or came back) and one that changes nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Of BSD, and of Linux. */
pid_t wait4(pid_t, int *, int, struct rusage *);

enum { ROUNDS = 15, KINDS = 4 };

static const char *const KIND[KINDS] = {
    "Perl and makemap", "update, a node changed", "update, nothing changed", "a program that does nothing"
};

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Runs a program, and returns its time in ms and, at `kilobytes`, its greatest size or
 * that of a program it ran. */
static double run(const char *const *arguments, long *kilobytes)
{
    struct timespec begun, ended;
    struct rusage usage;
    int status;
    pid_t child;

    clock_gettime(CLOCK_MONOTONIC, &begun);
    child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        execv(arguments[0], (char *const *)arguments);
        perror(arguments[0]);
        _exit(127);
    }
    if (wait4(child, &status, 0, &usage) != child)
        fail("wait4");
    clock_gettime(CLOCK_MONOTONIC, &ended);
    if (status != 0) {
        fprintf(stderr, "%s failed\n", arguments[0]);
        exit(1);
    }
    *kilobytes = usage.ru_maxrss;
    return (double)(ended.tv_sec - begun.tv_sec) * 1e3 + (double)(ended.tv_nsec - begun.tv_nsec) / 1e6;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int rounds)
{
    qsort(values, (size_t)rounds, sizeof *values, compare);
    return values[rounds / 2];
}

static FILE *create(const char *path)
{
    FILE *file = fopen(path, "w");
    if (file == NULL)
        fail(path);
    return file;
}

static void bench(const char *mailaffinity, const char *script, const char *folder, long users, int rounds)
{
    char config[4096], list[4096], access[4096], plain[4096];
    double time[KINDS][ROUNDS];
    long size[KINDS] = { 0 };
    double medians[KINDS];
    FILE *file;
    int kind, round, node;
    long user;

    snprintf(config, sizeof config, "%s/mailaffinity.toml", folder);
    snprintf(list, sizeof list, "%s/users", folder);
    snprintf(access, sizeof access, "%s/access", folder);
    snprintf(plain, sizeof plain, "%s/plain", folder);
    file = create(list);
    for (user = 1; user <= users; user++)
        fprintf(file, "user%ld\n", user);
    fclose(file);
    file = create(access);
    fputs("# the administrator's\n", file);
    fclose(file);
    file = create(config);
    fprintf(file, "node_state = \"%s/nodes.toml\"\nstatus = \"%s/status.json\"\n", folder, folder);
    fprintf(file, "[access_map]\nmap = \"hash:%s\"\n[users]\nfile = \"%s\"\n", access, list);
    for (node = 1; node <= 3; node++)
        fprintf(file, "[[node]]\nname = \"node%d\"\naddress = \"192.0.2.%d\"\nqueue_group = \"node%dgroup\"\n",
                node, node, node);
    fclose(file);

    {
        const char *const perl[] = { "/usr/bin/perl", script, list, plain, NULL };
        const char *const update[] = { mailaffinity, "-c", config, "update", NULL };
        const char *const down[] = { mailaffinity, "-c", config, "down", "node2", NULL };
        const char *const up[] = { mailaffinity, "-c", config, "auto", "node2", NULL };
        const char *const nothing[] = { "/bin/true", NULL };
        long ignored;

        run(up, &ignored);
        run(update, &ignored);
        for (round = 0; round < rounds; round++) {
            time[0][round] = run(perl, &size[0]);
            run(round % 2 == 0 ? down : up, &ignored);
            time[1][round] = run(update, &size[1]);
            time[2][round] = run(update, &size[2]);
            time[3][round] = run(nothing, &size[3]);
        }
    }
    printf("%ld users\n", users);
    for (kind = 0; kind < KINDS; kind++) {
        medians[kind] = median(time[kind], rounds);
        printf("  %-28s %8.2f ms  %5.2f  %6ld KB\n", KIND[kind], medians[kind], medians[kind] / medians[0], size[kind]);
    }
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: update MAILAFFINITY PLAIN_UPDATE.PL FOLDER\n");
        return 64;
    }
    bench(argv[1], argv[2], argv[3], 1000, ROUNDS);
    bench(argv[1], argv[2], argv[3], 100000, ROUNDS);
    bench(argv[1], argv[2], argv[3], 1000000, 5);
    return 0;
}
