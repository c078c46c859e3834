// C++: an object made before main() must not be made again in a restored process, nor in the engine; exceptions work.
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>

#include "ckpt.h"

namespace {
struct Announce {
    Announce() { std::cout << "constructed" << std::endl; }
    ~Announce() { std::cout << "destroyed" << std::endl; }
} announce;
}  // namespace

int main(int argc, char **argv) {
    int lines = argc > 1 ? std::atoi(argv[1]) : 10;
    for (int line = 1; line <= lines; ++line) {
        try {
            throw std::runtime_error("line " + std::to_string(line));
        } catch (const std::exception &error) {
            std::cout << error.what() << std::endl;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    ckpt_hold();
    bool refused = ckpt_checkpoint() == -1 && *ckpt_error();
    ckpt_release();
    return refused ? 0 : 1;
}
