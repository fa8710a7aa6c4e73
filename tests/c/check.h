/* Checks that name their place. The first that fails ends the program. */

#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                            \
        }                                                                       \
    } while (0)

#define CHECK_STRING(actual, expected)                                          \
    do {                                                                        \
        const char *actual_ = (actual);                                         \
        if (actual_ == NULL || strcmp(actual_, (expected)) != 0) {              \
            fprintf(stderr, "%s:%d: %s is \"%s\", not \"%s\"\n", __FILE__, __LINE__, #actual, \
                    actual_ == NULL ? "(NULL)" : actual_, (expected));          \
            exit(1);                                                            \
        }                                                                       \
    } while (0)

#define CHECK_CONTAINS(text, part)                                              \
    do {                                                                        \
        const char *text_ = (text);                                             \
        if (strstr(text_, (part)) == NULL) {                                    \
            fprintf(stderr, "%s:%d: \"%s\" lacks \"%s\"\n", __FILE__, __LINE__, text_, (part)); \
            exit(1);                                                            \
        }                                                                       \
    } while (0)

#endif
