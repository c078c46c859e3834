// Pages of hugetlbfs, private and shared.
#include "check.h"

enum { SIZE = 2 << 20 };

int main(void) {
    char *map[2];
    char flags[2][256], after[256];
    for (int i = 0; i < 2; i++) {
        int share = i ? MAP_SHARED : MAP_PRIVATE;
        map[i] = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, share | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
        if (map[i] == MAP_FAILED) skip("no huge pages are free: %s", strerror(errno));
        fill(map[i], SIZE, (uint64_t)i);
        vm_flags(map[i], flags[i]);
    }
    ready();
    wait_go();
    for (int i = 0; i < 2; i++) {
        check(is_filled(map[i], SIZE, (uint64_t)i), "contents");
        vm_flags(map[i], after);
        check(strcmp(after, flags[i]) == 0, "flags %s, were %s", after, flags[i]);
    }
    return done();
}
