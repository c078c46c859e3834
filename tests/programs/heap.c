// The heap by brk and by mmap: contents, and that malloc and brk go on growing it in place.
#include "check.h"

enum { BLOCKS = 2000 };

int main(void) {
    static char *block[BLOCKS];
    static size_t size[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        size[i] = 8 * (1 + pattern((uint64_t)i) % (i % 50 ? 200 : 40000));
        need(block[i] = malloc(size[i]));
        fill(block[i], size[i], (uint64_t)i);
    }
    for (int i = 0; i < BLOCKS; i += 3) {
        free(block[i]);
        block[i] = NULL;
    }
    void *end = sbrk(0);
    ready();
    wait_go();
    check(sbrk(0) == end, "brk is at %p, was at %p", sbrk(0), end);
    for (int i = 0; i < BLOCKS; i++)
        check(!block[i] || is_filled(block[i], size[i], (uint64_t)i), "block %d", i);
    char *more = sbrk(1 << 20);
    check(more == end, "brk grew at %p instead of %p", (void *)more, end);
    if (more == end) memset(more, 7, 1 << 20);
    for (int i = 0; i < BLOCKS; i += 3) {
        need(block[i] = malloc(size[i]));
        fill(block[i], size[i], (uint64_t)i);
    }
    for (int i = 0; i < BLOCKS; i++) {
        check(is_filled(block[i], size[i], (uint64_t)i), "block %d, later", i);
        need(block[i] = realloc(block[i], size[i] + 5000));
        free(block[i]);
    }
    return done();
}
