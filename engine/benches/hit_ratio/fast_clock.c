/* Time runs 250 times as fast from the first call on. Of the clocks that Redis reads, this is the one of
   its eviction; its timers run by another one. */

#include <sys/time.h>
#include <time.h>

int gettimeofday(struct timeval *tv, void *tz) {
    static long long start;
    struct timespec now;
    (void)tz;
    clock_gettime(CLOCK_REALTIME, &now);
    long long us = now.tv_sec * 1000000LL + now.tv_nsec / 1000;
    if (start == 0) start = us;
    us = start + (us - start) * 250;
    tv->tv_sec = us / 1000000;
    tv->tv_usec = us % 1000000;
    return 0;
}
