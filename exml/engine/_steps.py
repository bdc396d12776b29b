"""The forms in which a step of a hot loop can run (eager, captured, compiled), and the choice among them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

import torch
from torch import nn

from exml.core.execution import Execution, ExecutionWarning

Step: TypeAlias = Callable[[], None]
"""One step; the tensors that it reads and writes keep their addresses."""

EAGER, CAPTURED, COMPILED = "eager", "captured", "compiled"
_WARM_UP, _TIMED = 2, 3
"""Untimed steps of each form (compilation, capture, caches), and timed steps."""
_WORTH_SECONDS = 120.0
"""Compilation takes up to a minute and is tried only if at least this much work remains."""
_CAPTURE_AFTER = 3
"""Steps before a capture, in which libraries select kernels and allocate workspaces."""


class Captured:
    """A step that is captured as a CUDA graph after a few calls and replayed from then on.

    Args:
        step: does not synchronize with the device.
        generators: CUDA generators that it draws from; they may be seeded between calls.
        device: a CUDA device.
    """

    def __init__(self, step: Step, generators: Sequence[torch.Generator], device: torch.device) -> None:
        self._step, self._generators, self._device = step, generators, device
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Run one step."""
        if self._graph is None and self._calls == _CAPTURE_AFTER:
            self._graph = self._capture()
        self._calls += 1
        if self._graph is not None:
            self._graph.replay()
            return
        # CUDA graphs require that the steps before a capture run on a side stream.
        side, current = torch.cuda.Stream(self._device), torch.cuda.current_stream(self._device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            self._step()
        current.wait_stream(side)

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            self._step()
        return graph


class Fallback:
    """A form that is replaced by the eager one, with a warning, if its first step fails before it changes anything.

    Args:
        make: creates the form.
        eager: the eager form.
        name: of the form, for the warning.
    """

    def __init__(self, make: Callable[[], Step], eager: Step, name: str) -> None:
        self._make, self._eager, self._name = make, eager, name
        self._form: Step | None = None

    def __call__(self) -> None:
        """Run one step."""
        if self._form is self._eager:
            self._eager()
            return
        try:
            if self._form is None:
                self._form = self._make()
            self._form()
        except Exception as error:
            self._form = self._eager
            self._eager()  # an error of the step itself is raised again here
            reason = (str(error) or repr(error)).splitlines()[0]
            warnings.warn(ExecutionWarning(self._name, reason), stacklevel=2)


class Choice:
    """The fastest of several forms of a step, chosen by timing each on some of the steps.

    Args:
        forms: by name, the eager one first; each is created when it is first timed.
        steps: total number of steps.
        device: on which they run.
    """

    def __init__(self, forms: Mapping[str, Callable[[], Step]], steps: int, device: torch.device) -> None:
        self._waiting = list(forms.items())
        self._left, self._device = steps, device
        self._seconds: dict[str, list[float]] = {}
        self._made: dict[str, Step] = {}
        self.chosen: str | None = None

    def __call__(self) -> None:
        """Run one step."""
        self._left -= 1
        if self.chosen is not None:
            self._made[self.chosen]()
            return
        name, make = self._waiting[0]
        if name not in self._made:
            self._made[name], self._seconds[name] = make(), []
        began = self._now()
        self._made[name]()
        self._seconds[name].append(self._now() - began)
        if len(self._seconds[name]) == _WARM_UP + _CAPTURE_AFTER + _TIMED:
            self._next()

    def _next(self) -> None:
        del self._waiting[0]
        times = {name: min(seconds[-_TIMED:]) for name, seconds in self._seconds.items()}
        best = min(times.values())
        hopeless = self._waiting and self._waiting[0][0] == COMPILED and best * self._left < _WORTH_SECONDS
        if not self._waiting or hopeless:
            self.chosen = min(times, key=lambda name: times[name])
            self._made = {self.chosen: self._made[self.chosen]}

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def compile_whole(module: nn.Module) -> nn.Module:
    """Compile the module without graph breaks, at its first call."""
    return cast(nn.Module, torch.compile(module, fullgraph=True))


def in_form(
    execution: Execution,
    eager: Step,
    compiled: Callable[[], Step],
    *,
    generators: Sequence[torch.Generator],
    steps: int,
    device: torch.device,
) -> Step:
    """The form of a step that an execution selects.

    Args:
        execution: the selection.
        eager: the step, operation by operation.
        compiled: creates the step with compiled networks.
        generators: that the step draws from.
        steps: total number of steps.
        device: on which they run.
    """
    if execution.compile == "never" or (execution.compile == "capture" and device.type != "cuda"):
        return eager

    def capture(make: Callable[[], Step], name: str) -> Step:
        return Fallback(lambda: Captured(make(), generators, device), eager, name)

    forms: dict[str, Callable[[], Step]] = {EAGER: lambda: eager}
    if device.type == "cuda":
        forms[CAPTURED] = lambda: capture(lambda: eager, "captured as a CUDA graph")
        forms[COMPILED] = lambda: capture(compiled, "compiled and captured as a CUDA graph")
    else:
        forms[COMPILED] = lambda: Fallback(compiled, eager, "compiled")
    if execution.compile == "auto":
        return Choice(forms, steps, device)
    return forms[COMPILED if execution.compile == "always" else CAPTURED]()


def exchanging(execution: Execution) -> None:
    """Warn that a step in which ranks exchange numbers runs eagerly, if another form was selected."""
    forms = {"capture": "captured as a CUDA graph", "always": "compiled"}
    if execution.compile in forms:
        reason = "ranks exchange numbers in the middle of it"
        warnings.warn(ExecutionWarning(forms[execution.compile], reason), stacklevel=2)
