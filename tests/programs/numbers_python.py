#!/usr/bin/env python3
"""As numbers.c, in Python: two threads print numbers, each its own, until they may go."""
import os
import threading
import time

go = os.environ["CKPT_TEST_GO"]
pid = os.getpid()


def count(name):
    since = before = time.monotonic()
    for number in range(1, 100000):
        if os.path.exists(go):
            return
        # One write, so that lines of two threads do not mix.
        os.write(1, f"{name} {number}\n".encode())
        time.sleep(0.02)
        now = time.monotonic()
        assert before <= now < before + 60, (before, now)
        assert now < since + 180, "nobody said go"
        before = now


thread = threading.Thread(target=count, args=("b",))
thread.start()
count("a")
thread.join()
assert os.getpid() == pid
print("as expected")
