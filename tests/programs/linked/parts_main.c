/* The main half of a program of two languages. */
#include <stdio.h>

int from_the_other_part(int n);

int main(void) {
    printf("%d\n", from_the_other_part(20));
    return 0;
}
