/* For LD_PRELOAD: a clock that tests set. With TEST_CLOCK the monotonic clock stands
 * at that second; with TEST_CLOCK_FAILS the time of day cannot be told. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    const char *second = getenv("TEST_CLOCK");

    if (clock == CLOCK_REALTIME && getenv("TEST_CLOCK_FAILS")) {
        errno = EINVAL;
        return -1;
    }
    if (clock == CLOCK_MONOTONIC && second) {
        now->tv_sec = atol(second);
        now->tv_nsec = 0;
        return 0;
    }
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    return real(clock, now);
}
