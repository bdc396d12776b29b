"""Prefetching: in order, one ahead, errors in their turn, and nothing left behind."""

import gc
import itertools
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from exml.experts.prefetch import ahead


class Thing:
    """Something that can be watched."""

    def __init__(self, number):
        self.number = number


def background():
    return [thread for thread in threading.enumerate() if thread.name == "exml-read-ahead"]


def settle():
    for thread in background():
        thread.join(10)


class Reads:
    """An iterator that notes which thread took what, and how many things were alive then."""

    def __init__(self, length):
        self.length, self.taken = length, []
        self.things = []
        self.asked = threading.Semaphore(0)

    def __iter__(self):
        return self

    def __next__(self):
        number = len(self.taken)
        if number == self.length:
            raise StopIteration
        self.taken.append(threading.current_thread() is threading.main_thread())
        self.asked.release()
        return lambda: self.make(number)

    def make(self, number):
        assert threading.current_thread() is threading.main_thread()
        thing = Thing(number)
        self.things.append(weakref.ref(thing))
        return thing


def test_one_ahead_and_in_order():
    reads = Reads(5)
    things = ahead(reads)
    assert reads.taken == []
    assert next(things).number == 0
    settle()
    assert reads.taken == [True, False]
    assert [thing.number for thing in things] == [1, 2, 3, 4]
    assert reads.taken == [True, False, False, False, False]
    assert next(things, None) is None
    assert background() == []


def test_nothing_is_kept_of_what_was_given():
    reads = Reads(4)
    things = ahead(reads)
    for number in range(4):
        thing = next(things)
        assert thing.number == number
        del thing
        gc.collect()
        assert [reference() for reference in reads.things] == [None] * (number + 1)


def test_what_is_read_is_let_go_of_when_it_is_built():
    held = []

    def read():
        for _ in range(3):
            data = Thing(0)
            held.append(weakref.ref(data))
            yield lambda data=data: data.number
            del data

    for _ in ahead(read()):
        settle()
        gc.collect()
        assert sum(reference() is not None for reference in held) <= 1  # the one that is on its way


@pytest.mark.parametrize("place", [0, 1, 3])
def test_an_error_comes_at_its_turn(place):
    def reads():
        for number in range(place):
            yield lambda number=number: number
        raise OSError("the disk has gone")

    things = ahead(reads())
    assert list(itertools.islice(things, place)) == list(range(place))
    settle()
    with pytest.raises(OSError, match="the disk has gone"):
        next(things)
    assert background() == []


def test_an_error_while_building_is_raised_at_once():
    with pytest.raises(ZeroDivisionError):
        next(ahead(iter([lambda: 1 / 0])))


def test_an_abandoned_iteration_ends_its_thread():
    gate = threading.Event()

    def reads():
        yield lambda: 0
        gate.wait(10)
        yield lambda: 1

    for _ in ahead(reads()):
        break
    assert len(background()) == 1
    gate.set()
    settle()
    assert background() == []


# The module alone: a program that imports nothing else starts in no time.
PATH = Path(__file__).parents[2] / "exml" / "experts" / "prefetch.py"
PROGRAM = """
import runpy, threading
ahead = runpy.run_path({path!r})["ahead"]
def reads():
    yield lambda: 0
    {wait}
    yield lambda: 1
things = ahead(reads(), daemon={daemon})
print(next(things))
"""


@pytest.mark.parametrize(("daemon", "wait"), [(True, "threading.Event().wait()"), (False, "pass")])
def test_the_program_ends_while_something_is_on_its_way(daemon, wait):
    program = PROGRAM.format(daemon=daemon, wait=wait, path=str(PATH))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_a_forked_process_reads_for_itself():
    """The thread that reads does not come along into a fork."""
    program = f"""
import os, runpy, sys, threading, time
ahead = runpy.run_path({str(PATH)!r})["ahead"]
parent, gate = os.getpid(), threading.Event()
class Reads:
    def __init__(self): self.number = -1
    def __iter__(self): return self
    def __next__(self):
        self.number += 1
        if self.number == 1 and os.getpid() == parent: gate.wait(30)
        if self.number == 4: raise StopIteration
        return lambda number=self.number: number
things = ahead(Reads())
assert next(things) == 0
time.sleep(0.05)
child = os.fork()
if child == 0:
    os._exit(0 if len(list(things)) >= 2 else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
gate.set()
assert list(things) == [1, 2, 3]
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
