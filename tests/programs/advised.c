// Every setting of madvise that changes what memory means, by the flags that the kernel shows.
#include "check.h"

static const struct {
    const char *name;
    int advice;
} ADVICE[] = {
    {"DONTFORK", MADV_DONTFORK},   {"WIPEONFORK", MADV_WIPEONFORK}, {"DONTDUMP", MADV_DONTDUMP},
    {"MERGEABLE", MADV_MERGEABLE}, {"HUGEPAGE", MADV_HUGEPAGE},     {"NOHUGEPAGE", MADV_NOHUGEPAGE},
    {"SEQUENTIAL", MADV_SEQUENTIAL}, {"RANDOM", MADV_RANDOM},
};
enum { COUNT = sizeof ADVICE / sizeof ADVICE[0], SIZE = 64 << 10 };

int main(void) {
    char *map[COUNT], flags[COUNT][256], after[256];
    for (int i = 0; i < COUNT; i++) {
        map[i] = anon(SIZE);
        fill(map[i], SIZE, (uint64_t)i);
        // A kernel without KSM or huge pages lacks the setting, and then there is nothing to keep.
        int r = madvise(map[i], SIZE, ADVICE[i].advice);
        need(r == 0 || errno == EINVAL);
        vm_flags(map[i], flags[i]);
    }
    ready();
    wait_go();
    for (int i = 0; i < COUNT; i++) {
        vm_flags(map[i], after);
        check(strcmp(after, flags[i]) == 0, "%s: %s, was %s", ADVICE[i].name, after, flags[i]);
        check(is_filled(map[i], SIZE, (uint64_t)i), "contents with %s", ADVICE[i].name);
    }
    pid_t child = fork();
    if (child == 0) _exit(is_zero(map[1], SIZE) && is_filled(map[2], SIZE, 2) ? 0 : 1);
    int status = -1;
    waitpid(child, &status, 0);
    check(status == 0, "a child sees other memory, status %x", status);
    return done();
}
