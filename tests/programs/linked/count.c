/* The program of the first paragraph of the README: it counts, one number a line. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
    for (int i = 1; i <= 400; i++) {
        printf("%d\n", i);
        fflush(stdout);
        usleep(5000);
    }
    printf("over\n");
    return 3;
}
