// Segment bases: gs set by the program, fs as the C library's, in two threads; and `pkeys`, the
// rights of protection keys.
#include <asm/prctl.h>
#include "check.h"

static uint64_t area[2][2] = {{11, 12}, {21, 22}};
static __thread int local = 5;

static void *thread(void *argument) {
    uint64_t *mine = argument, base = 0, value;
    need(syscall(SYS_arch_prctl, ARCH_SET_GS, mine) == 0);
    local = (int)mine[0];
    if (mine == area[0]) ready();
    wait_go();
    syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
    check(base == (uint64_t)mine, "gs base %lx", base);
    __asm__("mov %%gs:8, %0" : "=r"(value));
    check(value == mine[1], "gs:8 is %ld", value);
    check(local == (int)mine[0], "thread-local %d", local);
    return NULL;
}

static void protection_keys(void) {
    int key = pkey_alloc(0, PKEY_DISABLE_WRITE);
    if (key < 0) skip("no protection keys here: %s", strerror(errno));
    char before[256], after[256], *map = anon(4096);
    fill(map, 4096, 1);
    need(pkey_mprotect(map, 4096, PROT_READ | PROT_WRITE, key) == 0);
    vm_flags(map, before);
    ready();
    wait_go();
    vm_flags(map, after);
    check(strcmp(before, after) == 0, "flags %s, were %s", after, before);
    check(pkey_get(key) == PKEY_DISABLE_WRITE, "rights are %d", pkey_get(key));
    int other = pkey_alloc(0, 0);
    check(other != key, "the key is free again");
    check(pkey_set(key, 0) == 0 && is_filled(map, 4096, 1), "contents");
    map[0] = 1;
}

int main(int argc, char **argv) {
    if (argc == 2 && is(argv[1], "pkeys")) {
        protection_keys();
        return done();
    }
    pthread_t id;
    need(pthread_create(&id, NULL, thread, area[1]) == 0);
    thread(area[0]);
    pthread_join(id, NULL);
    return done();
}
