// Prints numbers that AVX2 instructions have counted, until it may go.
#include <immintrin.h>
#include "check.h"

__attribute__((target("avx2"))) static int64_t next(__m256i *counters) {
    *counters = _mm256_add_epi64(*counters, _mm256_set1_epi64x(1));
    return _mm256_extract_epi64(_mm256_permute4x64_epi64(*counters, 0x1b), 0);
}

int main(void) {
    if (!__builtin_cpu_supports("avx2")) skip("this processor has no AVX2");
    static __m256i counters;
    for (int64_t since = now_ms(CLOCK_MONOTONIC); !may_go();) {
        printf("a %ld\n", next(&counters));
        fflush(stdout);
        nanosleep(&(struct timespec){0, 20000000}, NULL);
        give_up_after(180, since);
    }
    return done();
}
