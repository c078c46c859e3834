// AMX tiles held in a loop.
#include <cpuid.h>
#include "check.h"

FOR_ASM volatile int leave;
FOR_ASM unsigned char config[64] __attribute__((aligned(64))), config_after[64] __attribute__((aligned(64)));
FOR_ASM unsigned char in[8][1024], out[8][1024];

static void *watch(void *unused) {
    wait_go();
    leave = 1;
    return unused;
}

#define EACH8(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#define LOAD(N) "tileloadd (%0,%2), %%tmm" #N "\n add $1024, %0\n"
#define STORE(N) "tilestored %%tmm" #N ", (%1,%2)\n add $1024, %1\n"

int main(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & (1u << 24))) skip("this processor has no AMX");
    // ARCH_REQ_XCOMP_PERM for the tiles' data.
    if (syscall(SYS_arch_prctl, 0x1023, 18) != 0) skip("the kernel gives no AMX: %s", strerror(errno));
    config[0] = 1;
    for (int i = 0; i < 8; i++) config[16 + 2 * i] = 64, config[48 + i] = 16;
    fill(in, sizeof in, 12);
    pthread_t id;
    need(pthread_create(&id, NULL, watch, NULL) == 0);
    unsigned char *from = in[0], *to = out[0];
    ready();
    __asm__ volatile("ldtilecfg config(%%rip)\n" EACH8(LOAD)
                     "1: cmpl $0, leave(%%rip)\n je 1b\n"
                     "sttilecfg config_after(%%rip)\n" EACH8(STORE) "tilerelease\n"
                     : "+r"(from), "+r"(to) : "r"((uint64_t)64) : "memory", "cc");
    check(memcmp(in, out, sizeof in) == 0, "tiles");
    check(memcmp(config, config_after, sizeof config) == 0, "their configuration");
    pthread_join(id, NULL);
    return done();
}
