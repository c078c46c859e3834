// A program of any kind (position independent or not, static, with a sanitizer): its variables,
// function pointers, heap, a thread, and the libc that goes on working.
#include <math.h>
#include "check.h"

static int counter = 17;
static char zeroed[100000];
static __thread int mine = 3;
static int twice(int n) { return 2 * n; }
static int (*volatile function)(int) = twice;

static void *thread(void *argument) {
    mine = 4;
    wait_go();
    check(mine == 4, "thread-local %d", mine);
    return argument;
}

int main(void) {
    pthread_t id;
    char *heap = malloc(100000);
    fill(heap, 100000, 6);
    fill(zeroed, 50000, 7);
    counter++;
    need(pthread_create(&id, NULL, thread, &counter) == 0);
    struct tm tm;
    time_t when = 1700000000;
    ready();
    wait_go();
    void *result = NULL;
    check(pthread_join(id, &result) == 0 && result == &counter, "join");
    check(counter == 18 && mine == 3 && function(21) == 42, "variables");
    check(is_filled(heap, 100000, 6) && is_filled(zeroed, 50000, 7), "contents");
    check(is_zero(zeroed + 50000, 50000), "zeros");
    free(heap);
    heap = calloc(1, 3000000);
    check(heap && is_zero(heap, 3000000), "calloc");
    free(heap);
    printf("%.6f %d\n", sqrt(counter), gmtime_r(&when, &tm)->tm_year);
    return done();
}
