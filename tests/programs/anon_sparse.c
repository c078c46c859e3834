// Anonymous private memory, sparse; and that it is anonymous afterwards: MADV_DONTNEED gives zeros.
#include "check.h"

enum { PAGES = 16384, PAGE = 4096 };

int main(void) {
    char *area = anon((size_t)PAGES * PAGE);
    for (uint64_t i = 0; i < PAGES; i++)
        if (pattern(i) % 5 == 0) fill(area + i * PAGE, PAGE, i << 20);
    char *gone = anon(64 * PAGE);
    fill(gone, 64 * PAGE, 1);
    madvise(gone + 8 * PAGE, 8 * PAGE, MADV_DONTNEED);
    char *read_only = anon(PAGE);
    fill(read_only, PAGE, 2);
    mprotect(read_only, PAGE, PROT_READ);
    ready();
    wait_go();
    for (uint64_t i = 0; i < PAGES; i++) {
        char *page = area + i * PAGE;
        int right = pattern(i) % 5 == 0 ? is_filled(page, PAGE, i << 20) : is_zero(page, PAGE);
        check(right, "page %d", (int)i);
    }
    check(is_filled(gone, 8 * PAGE, 1) && is_zero(gone + 8 * PAGE, 8 * PAGE), "before the hole");
    check(is_filled(read_only, PAGE, 2), "read-only page");
    madvise(area, (size_t)PAGES * PAGE, MADV_DONTNEED);
    check(is_zero(area, (size_t)PAGES * PAGE), "MADV_DONTNEED gave something else than zeros");
    madvise(gone, 64 * PAGE, MADV_DONTNEED);
    check(is_zero(gone, 64 * PAGE), "MADV_DONTNEED gave something else than zeros");
    fill(area, (size_t)PAGES * PAGE, 3);
    check(is_filled(area, (size_t)PAGES * PAGE, 3), "written again");
    return done();
}
