// What libc asks the vDSO for: it must work, go forward, and be what the kernel itself says.
#include <sched.h>
#include <sys/time.h>
#include "check.h"

static int64_t ns(const struct timespec *t) { return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec; }

static int64_t last[16];

static void look(void) {
    const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE,
                                CLOCK_BOOTTIME, CLOCK_TAI, CLOCK_MONOTONIC_RAW};
    for (int i = 0; i < 7; i++) {
        struct timespec before, by_libc, after, resolution;
        syscall(SYS_clock_gettime, clocks[i], &before);
        check(clock_gettime(clocks[i], &by_libc) == 0, "clock %d: %s", clocks[i], strerror(errno));
        syscall(SYS_clock_gettime, clocks[i], &after);
        check(ns(&before) <= ns(&by_libc) && ns(&by_libc) <= ns(&after), "clock %d: %ld, %ld, %ld", clocks[i],
              ns(&before), ns(&by_libc), ns(&after));
        check(ns(&by_libc) >= last[i], "clock %d goes back", clocks[i]);
        last[i] = ns(&by_libc);
        check(clock_getres(clocks[i], &resolution) == 0 && ns(&resolution) > 0, "clock %d", clocks[i]);
    }
    struct timeval of_day;
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    check(gettimeofday(&of_day, NULL) == 0, "%s", strerror(errno));
    int64_t apart = of_day.tv_sec * 1000000000 + of_day.tv_usec * 1000 - ns(&now);
    check(apart > -2000 && apart < 5000000000, "gettimeofday is %ld off", apart);
    time_t seconds = time(NULL);
    check(seconds >= now.tv_sec - 1 && seconds <= now.tv_sec + 5, "time is %ld off", (long)(seconds - now.tv_sec));
    unsigned processor = 9999, node = 9999;
    check(getcpu(&processor, &node) == 0 && processor < 9999 && node < 9999, "%u, %u", processor, node);
    check(sched_getcpu() >= 0, "%s", strerror(errno));
}

int main(void) {
    look();
    ready();
    wait_go();
    for (int i = 0; i < 1000; i++) look();
    return done();
}
