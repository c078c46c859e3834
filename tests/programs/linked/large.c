/* Large enough that its checkpoint takes a moment. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(void) {
    size_t words = (size_t)96 << 20 >> 3;
    unsigned long *memory = malloc(words * 8), seed = 1;
    for (size_t i = 0; i < words; i++) memory[i] = seed = seed * 6364136223846793005UL + 1442695040888963407UL;
    printf("ready\n");
    fflush(stdout);
    for (int i = 0; i < 12000; i++) usleep(5000);
    return 0;
}
