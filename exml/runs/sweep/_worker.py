"""A process of :class:`exml.runs.sweep.LocalProcesses`: takes runs from its standard input, one JSON object a line.

It answers each with a line, ``null`` or a failure. It ends when its input is closed, also in the middle of a run: that
happens whenever the sweep ends, whatever ended it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import sys
import threading
from typing import IO

import attrs

from exml.core.serialization import from_plain
from exml.runs.sweep._attempt import attempt
from exml.runs.sweep.backend import Task


def serve(asked: IO[str], answers: IO[str]) -> None:
    """Take runs until there are no more."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in asked:
            lines.put(line)
        os._exit(0)  # nobody waits for what is under way

    threading.Thread(target=listen, daemon=True).start()
    while True:
        failure = attempt(from_plain(json.loads(lines.get()), Task))
        answers.write(json.dumps(failure and attrs.asdict(failure)) + "\n")
        answers.flush()


if __name__ == "__main__":
    faulthandler.enable()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")  # before a run prints to 1
    serve(sys.stdin, answers)
