/* Holds checkpoints off in a critical section; a Ctrl+C in it is acted upon at its end. */
#include <ckpt.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

int main(void) {
    ckpt_hold();
    ckpt_hold();
    if (ckpt_checkpoint() != -1 || errno != EBUSY) return 1;
    printf("held\n");
    fflush(stdout);
    for (int i = 0; i < 200; i++) usleep(5000);
    printf("still held\n");
    fflush(stdout);
    ckpt_release();
    printf("once more\n");
    fflush(stdout);
    ckpt_release();
    printf("released\n");
    fflush(stdout);
    return 6;
}
