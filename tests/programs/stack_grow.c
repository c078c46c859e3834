// The main stack grows far after the restore, and so does a MAP_GROWSDOWN mapping.
#include "check.h"

enum { PAGE = 4096 };

static uint64_t __attribute__((noinline)) descend(int depth) {
    volatile char frame[PAGE];
    memset((char *)frame, depth, sizeof frame);
    uint64_t below = depth ? descend(depth - 1) : 0;
    for (int i = 0; i < PAGE; i += 512) below += frame[i] == (char)depth;
    return below;
}

int main(void) {
    // Room below it, then a mapping that may grow into the room.
    char *room = mmap(NULL, 1024 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(room != MAP_FAILED);
    munmap(room, 1024 * PAGE);
    char *low = room + 1000 * PAGE;
    low = mmap(low, 4 * PAGE, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
    need(low != MAP_FAILED);
    fill(low, 4 * PAGE, 4);
    for (int i = 1; i <= 10; i++) fill(low - i * PAGE, PAGE, (uint64_t)i);
    uint64_t before = descend(50);
    ready();
    wait_go();
    check(is_filled(low, 4 * PAGE, 4), "its first pages");
    for (int i = 1; i <= 10; i++) check(is_filled(low - i * PAGE, PAGE, (uint64_t)i), "grown %d", i);
    for (int i = 11; i <= 200; i++) low[-i * PAGE] = (char)i;
    for (int i = 11; i <= 200; i++) check(low[-i * PAGE] == (char)i, "grown %d later", i);
    check(descend(50) == before, "the stack");
    check(descend(1700) == 1701 * 8, "a deep stack");
    return done();
}
