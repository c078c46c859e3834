/* Takes a checkpoint of itself with hooks around it, and says what ran, in order, on each side.
 *   hooks [FILE]     ckpt_checkpoint_to(FILE), or ckpt_checkpoint()
 * Saved:    prints "b2 b1 a1=0 a2=0 saved", status 0.
 * Restored: prints "b2 b1 a1=1 a2=1 restored", status 5. The hooks only note what they did: they are signal-safe. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ckpt.h"

static char order[64];

static void note(const char *word) {
    strcat(order, word);
}

static void before(void *name) {
    note(name);
}

static void after(int restored, void *name) {
    note(name);
    note(restored ? "1 " : "0 ");
}

int main(int argc, char **argv) {
    /* The last registered runs first before a checkpoint, and last after it. */
    if (ckpt_before(before, "b1 ") || ckpt_before(before, "b2 ")) return 1;
    if (ckpt_after(after, "a1=") || ckpt_after(after, "a2=")) return 1;
    if (ckpt_before(NULL, NULL) != -1 || errno != EINVAL) return 2;
    int result = argc > 1 ? ckpt_checkpoint_to(argv[1]) : ckpt_checkpoint();
    switch (result) {
    case CKPT_SAVED:
        printf("%ssaved\n", order);
        return 0;
    case CKPT_RESTORED:
        printf("%srestored\n", order);
        return 5;
    default:
        printf("%sfailed: %s: %s\n", order, strerror(errno), ckpt_error());
        return 3;
    }
}
