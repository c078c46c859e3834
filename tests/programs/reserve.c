// An address space as sanitizers, Go and the JVM reserve it: 2 TiB, of which a few pages exist.
#include "check.h"

static const size_t SIZE = (size_t)2 << 40;

int main(void) {
    char *map = mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) skip("2 TiB cannot be reserved here: %s", strerror(errno));
    need(mprotect(map + SIZE / 2, SIZE / 4, PROT_READ | PROT_WRITE) == 0);
    size_t at[] = {SIZE / 2, SIZE / 2 + ((size_t)3 << 30), SIZE / 2 + SIZE / 8, SIZE / 4 * 3 - 4096};
    for (int i = 0; i < 4; i++) fill(map + at[i], 4096, (uint64_t)i);
    ready();
    wait_go();
    for (int i = 0; i < 4; i++) check(is_filled(map + at[i], 4096, (uint64_t)i), "page %d", i);
    check(is_zero(map + at[1] + 4096, 4096), "beside a page");
    map[SIZE / 2 + 12345678] = 1;
    check(mprotect(map, 4096, PROT_READ | PROT_WRITE) == 0, "%s", strerror(errno));
    check(is_zero(map, 4096), "where nothing was");
    return done();
}
