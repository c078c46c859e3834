// The x87 stack with its control word, and the rounding and exception bits of MXCSR, held in a loop.
#include <fenv.h>
#include <math.h>
#include "check.h"

FOR_ASM volatile int leave;
FOR_ASM long double out[6];
FOR_ASM unsigned mxcsr = 0x7f80, mxcsr_after;
FOR_ASM unsigned short control = 0x0a7f, control_after, status_after;

static void *watch(void *unused) {
    wait_go();
    leave = 1;
    return unused;
}

int main(void) {
    pthread_t id;
    need(pthread_create(&id, NULL, watch, NULL) == 0);
    fesetround(FE_UPWARD);
    ready();
    __asm__ volatile(
        "fninit\n fldcw control(%%rip)\n ldmxcsr mxcsr(%%rip)\n"
        "fld1\n fldpi\n fldl2e\n fldl2t\n fldlg2\n fldln2\n"
        "1: cmpl $0, leave(%%rip)\n je 1b\n"
        "fnstcw control_after(%%rip)\n stmxcsr mxcsr_after(%%rip)\n fnstsw status_after(%%rip)\n"
        "fstpt out(%%rip)\n fstpt out+16(%%rip)\n fstpt out+32(%%rip)\n"
        "fstpt out+48(%%rip)\n fstpt out+64(%%rip)\n fstpt out+80(%%rip)\n fninit\n"
        ::: "memory", "cc", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
    unsigned usual = 0x1f80;
    __asm__ volatile("ldmxcsr %0" ::"m"(usual));
    for (int i = 0; i < 6; i++) printf("%.20Lg\n", out[i]);
    printf("control %x, status %x, mxcsr %x\n", control_after, status_after, mxcsr_after);
    check(control_after == control && mxcsr_after == mxcsr, "control words");
    pthread_join(id, NULL);
    return done();
}
