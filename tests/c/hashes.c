/* Versions, error texts, the drop-ins, username hashes, and detail buffers. */

#include <mailaffinity.h>

#include <limits.h>

#include "check.h"

static void versions(void)
{
    CHECK(mailaffinity_abi_version() == MAILAFFINITY_ABI_VERSION);
    CHECK_STRING(mailaffinity_version(), EXPECTED_VERSION);
    CHECK_STRING(MAILAFFINITY_VERSION, EXPECTED_VERSION);
}

static void error_texts(void)
{
    int error;

    CHECK_STRING(mailaffinity_strerror(MAILAFFINITY_OK), "success");
    for (error = MAILAFFINITY_OK; error <= MAILAFFINITY_ERROR_PANIC; error++) {
        CHECK(strcmp(mailaffinity_strerror(error), mailaffinity_strerror(-1)) != 0);
        CHECK(error == MAILAFFINITY_OK || strcmp(mailaffinity_strerror(error), "success") != 0);
    }
    CHECK_STRING(mailaffinity_strerror(-1), "unknown error number");
    CHECK_STRING(mailaffinity_strerror(INT_MIN), "unknown error number");
    CHECK_STRING(mailaffinity_strerror(INT_MAX), "unknown error number");
}

/* printf %s user1 | md5sum: 24c9e15e... = 617210206, and so on. */
static void drop_ins(void)
{
    CHECK(hash_user_group_modulo("user1", 3) == 617210206 % 3);
    CHECK(hash_user_group_modulo("User1", 300) == 1804635000 % 300);
    CHECK(hash_user_group_modulo("", 3) == 1);
    CHECK(hash_user_group_modulo("m\xc3\xbcller", 300) == 203);
    CHECK(hash_user_group_modulo("user1", 1) == 0);
    CHECK(hash_user_group_modulo("user1", INT_MAX) == 617210206);

    CHECK(hash_user_group_ring("user1", 3) == 2);
    CHECK(hash_user_group_ring("User1", 3) == 1);
    CHECK(hash_user_group_ring("", 300) == 173);
    CHECK(hash_user_group_ring("m\xc3\xbcller", 300) == 63);
    CHECK(hash_user_group_ring("user1", 1) == 0);

    /* tests/director/direct-3.tsv: three hosts with 100 vhosts each. */
    CHECK(hash_user_group_modulo("yves42", 300) / 100 == 1);
    CHECK(hash_user_group_modulo("walter42", 300) / 100 == 0);
    CHECK(hash_user_group_modulo("@example.com", 300) / 100 == 2);

    CHECK(hash_user_group_modulo(NULL, 3) == -1);
    CHECK(hash_user_group_modulo("user1", 0) == -1);
    CHECK(hash_user_group_modulo("user1", -1) == -1);
    CHECK(hash_user_group_modulo("user1", INT_MIN) == -1);
    CHECK(hash_user_group_ring(NULL, 3) == -1);
    CHECK(hash_user_group_ring("user1", 0) == -1);
    CHECK(hash_user_group_ring("user1", -1) == -1);
    CHECK(hash_user_group_ring("user1", INT_MIN) == -1);
}

static uint32_t hash(const char *format, const char *user, size_t user_len)
{
    uint32_t hash = 0;
    char detail[100] = "?";

    CHECK(mailaffinity_username_hash(format, user, user_len, &hash, detail, sizeof detail) == MAILAFFINITY_OK);
    CHECK_STRING(detail, "");
    CHECK(hash != 0);
    return hash;
}

static void username_hashes(void)
{
    char *large;

    /* tests/director/hashes-Lu.tsv, hashes-u.tsv, hashes-Ln-Ld.tsv */
    CHECK(hash(NULL, "yves42", 6) == 4219978008u);
    CHECK(hash("%Lu", "YvEs42", 6) == 4219978008u);
    CHECK(hash("%Lu", "\xe6\x97\xa5\xe6\x9c\xac", 6) == 1304351462u);
    CHECK(hash("%u", "judy_x", 6) == 3589791607u);
    CHECK(hash("%u", "\xc4\xb0", 2) == 439435063u);
    CHECK(hash("%Ln@%Ld", "niaj4906", 8) == 2093085413u);

    /* Only so many bytes, and NULs among them: printf 'a\0b' | md5sum. */
    CHECK(hash(NULL, "yves42 and more", 6) == 4219978008u);
    CHECK(hash(NULL, "a\0b", 3) == 1882525536u);
    CHECK(hash(NULL, "a\0b", 1) == 214005177u);
    CHECK(hash(NULL, "\xff\x80", 2) != hash(NULL, "\xff\x81", 2));
    CHECK(hash(NULL, NULL, 0) == 3558706393u);
    CHECK(hash(NULL, "ignored", 0) == 3558706393u);

    /* head -c 1000000 /dev/zero | tr '\0' a | md5sum */
    large = malloc(1000000);
    CHECK(large != NULL);
    memset(large, 'A', 1000000);
    CHECK(hash(NULL, large, 1000000) == 0x7707d6aeu);
    free(large);
}

static void username_hash_errors(void)
{
    uint32_t hash = 42;
    char detail[200];

    CHECK(mailaffinity_username_hash(NULL, "user1", 5, NULL, detail, sizeof detail) == MAILAFFINITY_ERROR_NULL);
    CHECK_STRING(detail, "hash_out is NULL");
    CHECK(mailaffinity_username_hash(NULL, NULL, 5, &hash, detail, sizeof detail) == MAILAFFINITY_ERROR_NULL);
    CHECK_STRING(detail, "user is NULL");
    CHECK(mailaffinity_username_hash("%{if;%u;<;9;%u}", "user1", 5, &hash, detail, sizeof detail)
          == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK_CONTAINS(detail, "no number");
    CHECK(mailaffinity_username_hash(NULL, "user1", SIZE_MAX, &hash, detail, sizeof detail)
          == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK_CONTAINS(detail, "length of user");
    CHECK(mailaffinity_username_hash(NULL, "user1", SIZE_MAX / 2 + 1, &hash, detail, sizeof detail)
          == MAILAFFINITY_ERROR_INVALID_ARGUMENT);
    CHECK(mailaffinity_username_hash("%x", "user1", 5, &hash, detail, sizeof detail)
          == MAILAFFINITY_ERROR_USERNAME_HASH);
    CHECK_CONTAINS(detail, "unknown variable %x");
    CHECK(mailaffinity_username_hash("%{pid}", "user1", 5, &hash, NULL, 0) == MAILAFFINITY_ERROR_USERNAME_HASH);
    CHECK(hash == 42);
}

/* Everything behind the first `size` bytes stays as it was. */
static void detail_buffers(void)
{
    const char *text = "hash_out is NULL";
    char detail[32];
    size_t size, i;

    for (size = 0; size <= sizeof detail; size++) {
        size_t len = size <= strlen(text) ? (size == 0 ? 0 : size - 1) : strlen(text);

        memset(detail, '#', sizeof detail);
        CHECK(mailaffinity_username_hash(NULL, "", 0, NULL, detail, size) == MAILAFFINITY_ERROR_NULL);
        CHECK(memcmp(detail, text, len) == 0);
        CHECK(size == 0 || detail[len] == '\0');
        for (i = size == 0 ? 0 : len + 1; i < sizeof detail; i++)
            CHECK(detail[i] == '#');
    }
    /* No buffer, whatever its size. */
    CHECK(mailaffinity_username_hash(NULL, "", 0, NULL, NULL, 0) == MAILAFFINITY_ERROR_NULL);
    CHECK(mailaffinity_username_hash(NULL, "", 0, NULL, NULL, 100) == MAILAFFINITY_ERROR_NULL);
    /* A size larger than the buffer is the caller's word; only the text is written. */
    memset(detail, '#', sizeof detail);
    CHECK(mailaffinity_username_hash(NULL, "", 0, NULL, detail, SIZE_MAX) == MAILAFFINITY_ERROR_NULL);
    CHECK_STRING(detail, text);
    CHECK(detail[strlen(text) + 1] == '#');
}

int main(void)
{
    versions();
    error_texts();
    drop_ins();
    username_hashes();
    username_hash_errors();
    detail_buffers();
    return 0;
}
