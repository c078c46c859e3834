// Shared anonymous memory: one, and one that is mapped twice; both views stay one memory, and it
// stays shared with a child made later.
#include "check.h"

enum { SIZE = 1 << 20 };

int main(int argc, char **argv) {
    need(argc == 2);
    char *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    need(map != MAP_FAILED);
    fill(map, SIZE, 5);
    madvise(map + SIZE / 2, SIZE / 4, MADV_REMOVE);
    char *twin = map;
    if (is(argv[1], "twice")) {
        // An old size of zero makes a second view of the same memory.
        twin = mremap(map, 0, SIZE, MREMAP_MAYMOVE);
        need(twin != MAP_FAILED && twin != map);
    }
    ready();
    wait_go();
    for (char *view = map;; view = twin) {
        check(is_filled(view, SIZE / 2, 5), "first half");
        check(is_zero(view + SIZE / 2, SIZE / 4), "hole");
        check(is_filled(view + SIZE / 4 * 3, SIZE / 4, 5 + SIZE / 8 / 4 * 3), "last quarter");
        if (view == twin) break;
    }
    map[100] = 'a';
    check(twin[100] == 'a', "two memories now");
    pid_t child = fork();
    if (child == 0) {
        twin[200] = 'b';
        _exit(0);
    }
    check(waitpid(child, NULL, 0) == child, "%s", strerror(errno));
    check(map[200] == 'b', "private now");
    return done();
}
