// C++: an exception in flight, threads, thread-local objects, containers and streams.
#include <atomic>
#include <condition_variable>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {
struct Noisy {
    std::string name;
    explicit Noisy(std::string n) : name(std::move(n)) {}
    ~Noisy() { std::cout << name << " destroyed" << std::endl; }
};

thread_local std::unique_ptr<Noisy> own;

struct WaitsInDestructor {
    ~WaitsInDestructor() {
        ready();
        wait_go();
    }
};

void throws(int depth) {
    Noisy noisy("frame " + std::to_string(depth));
    if (depth == 0) {
        WaitsInDestructor waits;
        throw std::runtime_error("thrown before the checkpoint");
    }
    throws(depth - 1);
}
} // namespace

int main() {
    std::map<std::string, std::vector<int>> map;
    for (int i = 0; i < 5000; i++) map["key" + std::to_string(i % 700)].push_back(i);
    std::mutex mutex;
    std::condition_variable changed;
    bool over = false;
    std::thread thread([&] {
        own = std::make_unique<Noisy>("thread-local object");
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return over; });
    });
    try {
        throws(3);
    } catch (const std::exception &error) {
        std::cout << "caught: " << error.what() << std::endl;
    }
    {
        std::lock_guard lock(mutex);
        over = true;
    }
    changed.notify_all();
    thread.join();
    long sum = 0;
    for (const auto &[key, numbers] : map)
        for (int n : numbers) sum += n * static_cast<long>(key.size());
    std::cout << "sum " << sum << std::endl;
    return done();
}
