/* The header in C90. */

#include <mailaffinity.h>

#include "check.h"

int main(void)
{
    CHECK_STRING(mailaffinity_version(), MAILAFFINITY_VERSION);
    return mailaffinity_abi_version() == MAILAFFINITY_ABI_VERSION ? 0 : 1;
}
