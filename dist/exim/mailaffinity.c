/*
 * The node of a user for Exim, as functions of ${dlfunc{FILE}{FUNCTION}{USER}{CONFIGURATION}}:
 *
 *     node     what the administrator calls it
 *     host     the host that serves the user
 *     address  the address under which Dovecot's Director knows it
 *
 * Without CONFIGURATION, that is /etc/mailaffinity.toml. doc/c-programs.md has a router.
 *
 * An answer that there is not fails the expansion, never by force: a router then defers, and
 * no mail bounces. What the administrator should know goes to Exim's main log.
 *
 * Exim's processes have one thread.
 */

#include <mailaffinity.h>

#include <stdio.h>
#include <string.h>

/* Of Exim's local_scan.h. */
enum { OK = 0, FAIL = 2, LOG_MAIN = 1 };
void log_write(unsigned int selector, int logs, const char *format, ...) __attribute__((weak));

typedef const char *field(const mailaffinity_cluster *cluster, size_t node);

int node(unsigned char **yield, int argc, unsigned char *argv[]);
int host(unsigned char **yield, int argc, unsigned char *argv[]);
int address(unsigned char **yield, int argc, unsigned char *argv[]);

/* What is returned, which Exim copies, or told. */
static char text[1024];

static void tell(void)
{
    if (text[0] != '\0' && log_write != NULL)
        log_write(0, LOG_MAIN, "mailaffinity: %s", text);
}

/* The site of a configuration, open from one question to the next; NULL, and why in text. */
static const mailaffinity_site *site_of(const char *config_path)
{
    static mailaffinity_site *site;
    static char path[4096];

    if (site != NULL && strcmp(config_path, path) == 0)
        return site;
    mailaffinity_site_close(site);
    site = NULL;
    if ((size_t)snprintf(path, sizeof path, "%s", config_path) >= sizeof path)
        snprintf(text, sizeof text, "the configuration's path is too long");
    else if (mailaffinity_site_open(path[0] == '\0' ? NULL : path, &site, text, sizeof text) == MAILAFFINITY_OK)
        tell();
    return site;
}

static int answer(unsigned char **yield, int argc, unsigned char *argv[], field *field)
{
    const mailaffinity_site *site;
    mailaffinity_cluster *cluster;
    const char *user;
    size_t number;

    *yield = (unsigned char *)text;
    if (argc < 1 || argc > 2) {
        snprintf(text, sizeof text, "mailaffinity takes a user and maybe a configuration, not %d arguments", argc);
        return FAIL;
    }
    user = (const char *)argv[0];
    site = site_of(argc == 2 ? (const char *)argv[1] : "");
    if (site == NULL
        || mailaffinity_site_lookup(site, user, strlen(user), &cluster, &number, text, sizeof text)
            != MAILAFFINITY_OK)
        return FAIL;
    tell();
    snprintf(text, sizeof text, "%s", field(cluster, number));
    mailaffinity_cluster_free(cluster);
    return OK;
}

int node(unsigned char **yield, int argc, unsigned char *argv[])
{
    return answer(yield, argc, argv, mailaffinity_node_name);
}

int host(unsigned char **yield, int argc, unsigned char *argv[])
{
    return answer(yield, argc, argv, mailaffinity_node_host);
}

int address(unsigned char **yield, int argc, unsigned char *argv[])
{
    return answer(yield, argc, argv, mailaffinity_node_address);
}
