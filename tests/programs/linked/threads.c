/* Four threads count under load; the main thread prints their total, and at the end checks that no increment was lost.
 * The first argument is the number of lines, 50 by default, one each 20 ms. Every thread can be the one that Ctrl+C
 * interrupts. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { THREADS = 4 };

static atomic_long total;
static atomic_int stop;
static long counts[THREADS];

static void *count(void *index) {
    long mine = 0;
    while (!atomic_load(&stop)) {
        atomic_fetch_add(&total, 1);
        mine++;
    }
    counts[(long)index] = mine;
    return NULL;
}

int main(int argc, char **argv) {
    int lines = argc > 1 ? atoi(argv[1]) : 50;
    struct timespec wait = {0, 20 * 1000 * 1000};
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, count, (void *)i);
    for (int line = 1; line <= lines; line++) {
        nanosleep(&wait, NULL);
        printf("line %d\n", line);
        fflush(stdout);
    }
    atomic_store(&stop, 1);
    long sum = 0;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        sum += counts[i];
    }
    printf("%s\n", sum == atomic_load(&total) ? "complete" : "lost");
    return sum != atomic_load(&total);
}
