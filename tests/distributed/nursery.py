"""Ranks that are real processes, forked from one that has imported everything: a life of a second is a second of work.

Run as a program: reads a line of JSON for each distributed run from stdin, and writes one with the exit codes.
"""

import json
import os
import signal
import socket
import sys
import time

import torch._dynamo  # otherwise, each process imports it in its first optimizer

import exml
from exml import cli
from exml.learning import events
from exml.scenarios import registry
from tests import tiny

WAIT = 240.0
"""Seconds within which a rank that is not itself at fault must have ended."""


def main():
    """Fork, wait, tell."""
    registry._FACTORIES.update(tiny.FACTORIES)
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for rank in range(order["size"]):
            child = os.fork()
            if child == 0:
                live(rank, port, order)
            children.append(child)
        print(json.dumps(codes_of(children, order)), flush=True)


def live(rank, port, order):
    """The life of one rank; never returns."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(order["size"]), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    said = os.open(f"{order['said']}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if order.get("fault") and rank == order["at_fault"]:
        emit = exml.Learner._emit

        def faulty(learner, event):
            emit(learner, event)
            if is_there(event, order["place"]):
                fail(order["fault"])

        exml.Learner._emit = faulty
    code = cli.main(order["arguments"])
    sys.stdout.flush()
    os._exit(code)


def is_there(event, place):
    """Whether this is the event at which the fault comes, in the middle of the second experience."""
    kind = {"generation": events.GenerationProgress, "distillation": events.DistillationProgress}[place]
    return isinstance(event, kind) and event.experience == 2 and event.done == event.total // 2


def fail(fault):
    """Die, stop, hang or raise."""
    if fault == "raise":
        raise exml.core.errors.DataError(expected="an image", got="none", remedy="look for one")
    if fault == "hang":
        time.sleep(1_000)
    os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGSTOP)


def codes_of(children, order):
    """The exit codes; one that is at fault and does not end is ended after the others."""
    codes, until = [None] * len(children), time.monotonic() + WAIT
    last = order["at_fault"] if order.get("fault") in ("stop", "hang") else None
    for rank, child in sorted(enumerate(children), key=lambda pair: pair[0] == last):
        ended = 0
        while not ended and time.monotonic() < until and rank != last:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.02)
        if not ended:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        codes[rank] = os.waitstatus_to_exitcode(status) if ended or rank == last else "too late"
    return codes


if __name__ == "__main__":
    main()
