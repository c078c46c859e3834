/* Asks for a checkpoint itself, with hooks around it, and holds Ctrl+C off in between. */
#include <ckpt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void before(void *argument) {
    printf("before %s\n", (const char *)argument);
    fflush(stdout);
}

static void after(int restored, void *argument) {
    printf("after %s, restored %d\n", (const char *)argument, restored);
    fflush(stdout);
}

int main(int argc, char **argv) {
    int kept = 42;
    ckpt_before(before, "one");
    ckpt_before(before, "two");
    ckpt_after(after, "one");
    ckpt_after(after, "two");
    int result = argc > 1 ? ckpt_checkpoint_to(argv[1]) : ckpt_checkpoint();
    if (result < 0) {
        printf("error: %s\n", ckpt_error());
        return 1;
    }
    printf("%s, kept %d\n", result == CKPT_SAVED ? "saved" : "restored", kept);
    fflush(stdout);
    return result == CKPT_SAVED ? 10 : 20;
}
