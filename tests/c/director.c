/* Reads a capture of a Director (tests/director/README.md) on stdin, and prints its
 * lookups with our answers in place of the Director's. */

#include <mailaffinity.h>

#include "check.h"

enum { LINE = 16384 };

/* The value of a header line, "# key = value"; NULL if it is not that header's. */
static const char *header(const char *line, const char *key)
{
    size_t len = strlen(key);

    if (strncmp(line, "# ", 2) != 0 || strncmp(line + 2, key, len) != 0 || strncmp(line + 2 + len, " =", 2) != 0)
        return NULL;
    line += 2 + len + 2;
    return *line == ' ' ? line + 1 : line;
}

/* Turns each %XX into its byte, in place; returns the length. */
static size_t unescape(char *text)
{
    char *from = text, *to = text;

    while (*from != '\0') {
        unsigned byte = (unsigned char)*from++;

        if (byte == '%') {
            CHECK(sscanf(from, "%2X", &byte) == 1);
            from += 2;
        }
        *to++ = (char)byte;
    }
    *to = '\0';
    return (size_t)(to - text);
}

static void add_host(mailaffinity_builder *builder, const char *host)
{
    char address[64], tag[64], state[8];
    unsigned vhosts;

    CHECK(sscanf(host, "%63s %u %63s %7s", address, &vhosts, tag, state) == 4);
    CHECK(mailaffinity_builder_add_node(builder, NULL, address, vhosts, strcmp(tag, "-") == 0 ? NULL : tag,
                                        state, NULL, 0) == MAILAFFINITY_OK);
}

int main(void)
{
    static char line[LINE], username_hash[LINE], user[LINE];
    int strategy = MAILAFFINITY_RING, key_is_hash = 0, value_is_hash = 0, error;
    mailaffinity_builder *builder = NULL;
    mailaffinity_cluster *cluster = NULL;
    const char *value;
    size_t node;
    uint32_t hash;

    while (fgets(line, sizeof line, stdin) != NULL) {
        char *end = strchr(line, '\n'), *tag, *answer;
        size_t user_len;

        CHECK(end != NULL);
        *end = '\0';
        if ((value = header(line, "strategy")) != NULL)
            strategy = strcmp(value, "direct") == 0 ? MAILAFFINITY_MODULO : MAILAFFINITY_RING;
        else if ((value = header(line, "username_hash")) != NULL)
            strcpy(username_hash, value);
        else if ((value = header(line, "key")) != NULL)
            key_is_hash = strcmp(value, "hash") == 0;
        else if ((value = header(line, "value")) != NULL)
            value_is_hash = strcmp(value, "hash") == 0;
        else if ((value = header(line, "host")) != NULL) {
            /* Hosts come last, so strategy and username_hash are known. */
            if (builder == NULL) {
                error = mailaffinity_builder_new(strategy, username_hash, &builder, NULL, 0);
                if (error == MAILAFFINITY_ERROR_USERNAME_HASH)
                    continue;
                CHECK(error == MAILAFFINITY_OK);
            }
            add_host(builder, value);
        }
        if (strncmp(line, "# ", 2) == 0)
            continue;

        tag = strchr(line, '\t');
        CHECK(tag != NULL);
        *tag++ = '\0';
        answer = strchr(tag, '\t');
        CHECK(answer != NULL);
        *answer = '\0';
        printf("%s\t%s\t", line, tag);
        strcpy(user, line);
        user_len = unescape(user);
        unescape(tag);

        if (builder != NULL && cluster == NULL)
            CHECK(mailaffinity_builder_build(builder, &cluster, NULL, 0) == MAILAFFINITY_OK);
        error = mailaffinity_username_hash(username_hash, user, user_len, &hash, NULL, 0);
        if (error == MAILAFFINITY_ERROR_USERNAME_HASH) {
            puts("!TRYAGAIN");
            continue;
        }
        CHECK(error == MAILAFFINITY_OK);
        if (value_is_hash) {
            printf("%lu\n", (unsigned long)hash);
            continue;
        }
        if (cluster == NULL)
            error = MAILAFFINITY_ERROR_NO_NODE; /* all hosts were removed */
        else if (key_is_hash)
            error = mailaffinity_lookup_hash(cluster, (uint32_t)strtoul(user, NULL, 10), tag, &node);
        else
            error = mailaffinity_lookup(cluster, user, user_len, tag, &node);
        CHECK(error == MAILAFFINITY_OK || error == MAILAFFINITY_ERROR_NO_NODE);
        puts(error == MAILAFFINITY_OK ? mailaffinity_node_address(cluster, node) : "-");
    }
    mailaffinity_cluster_free(cluster);
    mailaffinity_builder_free(builder);
    return 0;
}
