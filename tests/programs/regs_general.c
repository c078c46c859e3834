// All general registers and the direction flag, held in a loop of a few instructions.
#include "check.h"

FOR_ASM volatile int leave;
FOR_ASM uint64_t seen[16];

static void *watch(void *unused) {
    wait_go();
    leave = 1;
    return unused;
}

// rsp is the stack's, and rip the loop's: if either were wrong nothing would work.
static void __attribute__((noinline)) spin(void) {
    __asm__ volatile(
        "push %%rbp\n push %%rbx\n"
        "mov $0x1111111111111111, %%rax\n mov $0x2222222222222222, %%rbx\n"
        "mov $0x3333333333333333, %%rcx\n mov $0x4444444444444444, %%rdx\n"
        "mov $0x5555555555555555, %%rsi\n mov $0x6666666666666666, %%rdi\n"
        "mov $0x7777777777777777, %%rbp\n mov $0x8888888888888888, %%r8\n"
        "mov $0x9999999999999999, %%r9\n mov $0xaaaaaaaaaaaaaaaa, %%r10\n"
        "mov $0xbbbbbbbbbbbbbbbb, %%r11\n mov $0xcccccccccccccccc, %%r12\n"
        "mov $0xdddddddddddddddd, %%r13\n mov $0xeeeeeeeeeeeeeeee, %%r14\n"
        "mov $0xffffffff00000000, %%r15\n std\n"
        "1: cmpl $0, leave(%%rip)\n je 1b\n"
        "mov %%rax, seen(%%rip)\n mov %%rbx, seen+8(%%rip)\n mov %%rcx, seen+16(%%rip)\n"
        "mov %%rdx, seen+24(%%rip)\n mov %%rsi, seen+32(%%rip)\n mov %%rdi, seen+40(%%rip)\n"
        "mov %%rbp, seen+48(%%rip)\n mov %%r8, seen+56(%%rip)\n mov %%r9, seen+64(%%rip)\n"
        "mov %%r10, seen+72(%%rip)\n mov %%r11, seen+80(%%rip)\n mov %%r12, seen+88(%%rip)\n"
        "mov %%r13, seen+96(%%rip)\n mov %%r14, seen+104(%%rip)\n mov %%r15, seen+112(%%rip)\n"
        "pushfq\n pop %%rax\n cld\n mov %%rax, seen+120(%%rip)\n"
        "pop %%rbx\n pop %%rbp\n"
        ::: "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
            "memory", "cc");
}

int main(void) {
    pthread_t id;
    need(pthread_create(&id, NULL, watch, NULL) == 0);
    ready();
    spin();
    for (uint64_t i = 0; i < 14; i++)
        check(seen[i] == (i + 1) * 0x1111111111111111, "register %d: %lx", (int)i, seen[i]);
    check(seen[14] == 0xffffffff00000000, "r15: %lx", seen[14]);
    check(seen[15] & 0x400, "direction flag: %lx", seen[15]);
    pthread_join(id, NULL);
    return done();
}
