// Locked memory: `mlock`, `onfault`, and `future` (mlockall for all that comes).
#include "check.h"

#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

enum { SIZE = 64 << 10 };

int main(int argc, char **argv) {
    need(argc == 2);
    char before[256], after[256];
    char *map = anon(SIZE);
    if (is(argv[1], "mlock")) need(mlock(map, SIZE) == 0);
    if (is(argv[1], "onfault")) need(syscall(SYS_mlock2, map, SIZE, MLOCK_ONFAULT) == 0);
    if (is(argv[1], "future") && mlockall(MCL_FUTURE) != 0) skip("mlockall: %s", strerror(errno));
    if (is(argv[1], "future")) map = anon(SIZE);
    fill(map, 8192, 3);
    vm_flags(map, before);
    need(strstr(before, "lo"));
    long locked = number_in("/proc/self/status", "VmLck:");
    ready();
    wait_go();
    long now = number_in("/proc/self/status", "VmLck:");
    check(now == locked, "%ld kB are locked, were %ld", now, locked);
    vm_flags(map, after);
    check(strcmp(before, after) == 0, "flags %s, were %s", after, before);
    check(is_filled(map, 8192, 3), "contents");
    char *later = anon(SIZE);
    vm_flags(later, after);
    check(!strstr(after, "lo") == !is(argv[1], "future"), "new memory has flags %s", after);
    return done();
}
