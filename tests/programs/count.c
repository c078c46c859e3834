// Counts, keeps the number in the file `count`, and stops at the go: whether it was disturbed is seen from outside.
#include "check.h"

int main(void) {
    int fd = open("count", O_RDWR | O_CREAT | O_TRUNC, 0644);
    need(fd >= 0);
    uint64_t *shown = NULL, number = 0;
    need(ftruncate(fd, 4096) == 0);
    shown = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    need(shown != MAP_FAILED);
    close(fd);
    fill(anon(8 << 20), 8 << 20, 1);
    ready();
    for (int64_t since = now_ms(CLOCK_MONOTONIC); !may_go();) {
        struct timespec t = {0, 1000000};
        int r = nanosleep(&t, NULL);
        check(r == 0, "nanosleep: %s", strerror(errno));
        check(*shown == number, "somebody else counted");
        *shown = ++number;
        give_up_after(180, since);
    }
    return done();
}
