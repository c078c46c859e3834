#!/usr/bin/env python3
"""As traveller.c, in Python with two threads: `traveller_python MARK [library=DIRECTORY]`. On every machine it imports a module more from its
own directory, and one from the library."""
import ctypes
import importlib
import os
import select
import signal
import sys
import termios
import threading
import time

PR_SET_NAME = 15
LIBRARY = [word.partition("=")[2] for word in sys.argv if word.startswith("library=")]
sys.path += [os.getcwd() + "/modules"] + LIBRARY
libc = ctypes.CDLL(None)
leave = threading.Event()
status = 0
lock = threading.Lock()
resized = True
failed = []


def say(text):
    with lock:
        os.write(1, (text + "\n").encode())


def fail(text):
    failed.append(text)
    say("FAIL " + text)


def window_changed(*_):
    global resized
    resized = True


def count():
    number, before, tid = 0, time.monotonic(), threading.get_native_id()
    while not leave.is_set():
        number += 1
        now = time.monotonic()
        if not before <= now < before + 100:
            fail(f"{now} after {before}")
        if threading.get_native_id() != tid:
            fail("another thread id")
        before = now
        say(f"b {number} {os.uname().nodename} {int(now * 1000)}")
        time.sleep(0.01)


def imports_module(name):
    try:
        if importlib.import_module(name).answer != 42:
            fail(f"import {name}: another one")
    except ImportError as error:
        fail(f"import {name}: {error}")


signal.signal(signal.SIGWINCH, window_changed)
if os.isatty(0):
    # What is typed would be shown between the lines otherwise.
    settings = termios.tcgetattr(0)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSANOW, settings)
thread = threading.Thread(target=count)
thread.start()
trail = open("trail", "a")
source = open("input", "rb", buffering=0)
number, typed, host, moves, pid = 0, b"", "", 0, os.getpid()
big = {i: str(i) * 3 for i in range(20000)}
since = time.monotonic()
while not leave.is_set() and time.monotonic() < since + 300:
    number += 1
    # Not by /proc/self/comm: a program that has that open is refused.
    libc.prctl(PR_SET_NAME, f"n{number}".encode(), 0, 0, 0)
    if os.uname().nodename != host:
        host = os.uname().nodename
        imports_module(f"later{moves}")
        if LIBRARY:
            imports_module(f"other{moves}")
        moves += 1
        with open(f"was-on-{host}", "w") as note:
            note.write("here\n")
    if os.getpid() != pid:
        fail(f"{pid} is now {os.getpid()}")
    line = f"a {number} {host} {int(time.monotonic() * 1000)}"
    say(line)
    print(line, file=trail, flush=True)
    record = source.read(8)
    if not record:
        source.seek(0)
        record = source.read(8)
    if int(record) != source.tell() // 8 - 1:
        fail(f"record {record}")
    if number % 16 == 0 and open("input").read(16)[8:] != "0000001\n":
        fail("the input has changed")
    if resized and os.isatty(1):
        resized = False
        size = os.get_terminal_size(1)
        say(f"window {size.columns}x{size.lines}")
    if select.select([0], [], [], 0.01)[0]:
        typed += os.read(0, 512)
        *lines, typed = typed.split(b"\n")
        for command in lines:
            word, _, rest = command.decode().partition(" ")
            if word == "quit":
                status = int(rest)
                leave.set()
            elif word == "die":
                os.kill(pid, int(rest))
            else:
                say("typed: " + command.decode())
leave.set()
thread.join()
if any(value != str(key) * 3 for key, value in big.items()):
    fail("memory")
print("FAILED" if failed else "as expected", flush=True)
sys.exit(1 if failed else status)
