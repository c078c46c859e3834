// Vector registers held in a loop: `sse`, `avx`, `avx512` (with the mask registers).
#include "check.h"

FOR_ASM volatile int leave;
FOR_ASM unsigned char in[32 * 64], out[32 * 64] __attribute__((aligned(64)));
FOR_ASM uint64_t masks[8], masks_after[8];

static void *watch(void *unused) {
    wait_go();
    leave = 1;
    return unused;
}

#define EACH8(M, S, W) M(0, S, W) M(1, S, W) M(2, S, W) M(3, S, W) M(4, S, W) M(5, S, W) M(6, S, W) M(7, S, W)
#define EACH16(M, S, W) EACH8(M, S, W) \
    M(8, S, W) M(9, S, W) M(10, S, W) M(11, S, W) M(12, S, W) M(13, S, W) M(14, S, W) M(15, S, W)
#define EACH32(M, S, W) EACH16(M, S, W) M(16, S, W) M(17, S, W) M(18, S, W) M(19, S, W) \
    M(20, S, W) M(21, S, W) M(22, S, W) M(23, S, W) M(24, S, W) M(25, S, W) M(26, S, W) \
    M(27, S, W) M(28, S, W) M(29, S, W) M(30, S, W) M(31, S, W)
#define LOAD(N, I, R) I " in+64*" #N "(%%rip), %%" R #N "\n"
#define STORE(N, I, R) I " %%" R #N ", out+64*" #N "(%%rip)\n"
#define LOADK(N, I, R) "kmovq masks+8*" #N "(%%rip), %%k" #N "\n"
#define STOREK(N, I, R) "kmovq %%k" #N ", masks_after+8*" #N "(%%rip)\n"
#define SPIN "1: cmpl $0, leave(%%rip)\n je 1b\n"

static void __attribute__((noinline)) sse(void) {
    __asm__ volatile(EACH16(LOAD, "movdqu", "xmm") SPIN EACH16(STORE, "movdqu", "xmm")
                     ::: "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
                     "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static void __attribute__((noinline, target("avx"))) avx(void) {
    __asm__ volatile(EACH16(LOAD, "vmovdqu", "ymm") SPIN EACH16(STORE, "vmovdqu", "ymm") "vzeroupper\n"
                     ::: "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
                     "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static void __attribute__((noinline, target("avx512f,avx512bw"))) avx512(void) {
    __asm__ volatile(EACH32(LOAD, "vmovdqu64", "zmm") EACH8(LOADK, , ) SPIN
                     EACH32(STORE, "vmovdqu64", "zmm") EACH8(STOREK, , ) "vzeroupper\n"
                     ::: "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
                     "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
                     "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",
                     "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
}

int main(int argc, char **argv) {
    need(argc == 2);
    int count = 16, width = 16;
    fill(in, sizeof in, 8);
    for (uint64_t i = 0; i < 8; i++) masks[i] = pattern(i + 77);
    if (is(argv[1], "avx")) {
        if (!__builtin_cpu_supports("avx")) skip("this processor has no AVX");
        width = 32;
    }
    if (is(argv[1], "avx512")) {
        if (!__builtin_cpu_supports("avx512bw")) skip("this processor has no AVX-512");
        width = 64, count = 32;
    }
    pthread_t id;
    need(pthread_create(&id, NULL, watch, NULL) == 0);
    ready();
    if (width == 16) sse();
    if (width == 32) avx();
    if (width == 64) avx512();
    for (int i = 0; i < count; i++)
        check(memcmp(in + 64 * i, out + 64 * i, (size_t)width) == 0, "register %d", i);
    check(width < 64 || memcmp(masks, masks_after, sizeof masks) == 0, "mask registers");
    pthread_join(id, NULL);
    return done();
}
