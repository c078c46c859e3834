#!/usr/bin/env python3
"""Python: a running loop with generators, threads and floating point; every number comes once and in order."""
import os
import threading
import time

go = os.environ["CKPT_TEST_GO"]


def numbers():
    n = 0
    while True:
        yield n
        n += 1


counted = []
leave = threading.Event()


def work():
    for n in numbers():
        counted.append(n)
        if leave.wait(0.001):
            return


thread = threading.Thread(target=work)
thread.start()
big = {i: str(i) * 3 for i in range(20000)}
print("ready", flush=True)
since = time.monotonic()
while not os.path.exists(go) and time.monotonic() - since < 180:
    sum(i * 0.5 for i in range(1000))
leave.set()
thread.join()
assert counted == list(range(len(counted)))
assert all(value == str(key) * 3 for key, value in big.items())
print("as expected")
