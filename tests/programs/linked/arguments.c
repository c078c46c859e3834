/* Shows its arguments, all of them, and gives their number as its status. */
#include <stdio.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) printf("[%s]\n", argv[i]);
    return argc;
}
