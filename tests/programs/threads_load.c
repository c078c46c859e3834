// Eight threads that never rest: a mutex, condition variables, atomics, and a checksum at the end.
#include <stdatomic.h>
#include "check.h"

enum { THREADS = 8, LEAST = 20000 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static int turn;
static uint64_t under_mutex, per_thread[THREADS];
static atomic_ulong together, failed;
static volatile int leave;

static void *work(void *argument) {
    size_t me = (size_t)argument;
    uint64_t rounds = 0, sum = 0;
    // Pairs pass a ball to each other, so that the condition variables are always in use.
    for (; !leave || rounds < LEAST; rounds++) {
        sum += pattern(rounds);
        pthread_mutex_lock(&mutex);
        under_mutex++;
        pthread_mutex_unlock(&mutex);
        atomic_fetch_add(&together, 1);
        if (rounds % 1000 == me) {
            pthread_mutex_lock(&mutex);
            turn++;
            pthread_cond_broadcast(&turn_changed);
            int seen = turn;
            struct timespec limit;
            clock_gettime(CLOCK_REALTIME, &limit);
            limit.tv_nsec += 3000000;
            if (limit.tv_nsec >= 1000000000) limit.tv_sec++, limit.tv_nsec -= 1000000000;
            int r = 0;
            while (turn == seen && r == 0) r = pthread_cond_timedwait(&turn_changed, &mutex, &limit);
            if (r != 0 && r != ETIMEDOUT) failed++;
            pthread_mutex_unlock(&mutex);
        }
    }
    uint64_t again = 0;
    for (uint64_t i = 0; i < rounds; i++) again += pattern(i);
    if (again != sum) failed++;
    per_thread[me] = rounds;
    return NULL;
}

int main(void) {
    pthread_t id[THREADS];
    for (size_t i = 0; i < THREADS; i++) need(pthread_create(&id[i], NULL, work, (void *)i) == 0);
    while (together < 10000) usleep(1000);
    ready();
    wait_go();
    leave = 1;
    uint64_t all = 0;
    for (int i = 0; i < THREADS; i++) {
        check(pthread_join(id[i], NULL) == 0, "join %d", i);
        all += per_thread[i];
    }
    check(failed == 0, "%lu", (unsigned long)failed);
    check(all == under_mutex && all == together, "%lu %lu %lu", all, under_mutex, (unsigned long)together);
    return done();
}
