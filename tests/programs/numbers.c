// Prints numbers, each of `threads` threads its own, until it may go: whether one is missing or comes twice is seen from
// outside. The clocks must go on as if nothing had happened, with a gap no longer than a move.
#include "check.h"

static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME};

static int64_t by_kernel(clockid_t clock) {
    struct timespec t;
    syscall(SYS_clock_gettime, clock, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void *count(void *name) {
    int64_t since = now_ms(CLOCK_MONOTONIC), before[3];
    for (int i = 0; i < 3; i++) before[i] = now_ms(clocks[i]);
    for (int number = 1; !may_go(); number++) {
        printf("%s %d\n", (const char *)name, number);
        fflush(stdout);
        struct timespec t = {0, 20000000};
        int r = nanosleep(&t, NULL);
        check(r == 0, "nanosleep: %s", strerror(errno));
        for (int i = 0; i < 3; i++) {
            // What the vDSO says is what the kernel says.
            int64_t earliest = by_kernel(clocks[i]), now = now_ms(clocks[i]), latest = by_kernel(clocks[i]);
            check(earliest <= now && now <= latest, "clock %d: %ld, %ld, %ld", clocks[i], earliest, now, latest);
            // Another machine's wall clock may be a little behind.
            int64_t back = clocks[i] == CLOCK_REALTIME ? 10000 : 0, gap = now - before[i];
            check(gap >= -back && gap < 60000, "clock %d: %ld after %ld", clocks[i], now, before[i]);
            before[i] = now;
        }
        give_up_after(180, since);
    }
    return NULL;
}

int main(int argc, char **argv) {
    static const char *const names[] = {"a", "b", "c", "d", "e", "f"};
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    need(threads >= 1 && threads <= 6);
    pid_t pid = getpid();
    pthread_t id[6];
    for (int i = 1; i < threads; i++) need(pthread_create(&id[i], NULL, count, (void *)names[i]) == 0);
    count((void *)names[0]);
    for (int i = 1; i < threads; i++) check(pthread_join(id[i], NULL) == 0, "thread %d", i);
    check(getpid() == pid, "%d is now %d", pid, getpid());
    return done();
}
