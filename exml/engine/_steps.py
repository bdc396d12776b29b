"""The forms in which a step of a hot loop can run (eager, captured, compiled), and the choice among them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias, cast

import torch
from torch import nn

from exml.core.execution import Execution, ExecutionWarning

Step: TypeAlias = Callable[[], None]  # the tensors that a step reads and writes keep their addresses

_CAPTURED, _COMPILED = "captured as a CUDA graph", "compiled"
_WARM_UP, _TIMED = 2, 3  # untimed steps of each form (compilation, capture, caches), and timed steps
_WORTH_SECONDS = 120.0  # compilation takes up to a minute and is tried only if at least this much work remains
_CAPTURE_AFTER = 3  # steps before a capture, in which libraries select kernels and allocate workspaces


def captured(step: Step, generators: Sequence[torch.Generator], device: torch.device) -> Step:
    """The step, captured as a CUDA graph after a few calls; it must not synchronize, and draws from ``generators``."""
    calls, graph = 0, None

    def run() -> None:
        nonlocal calls, graph
        if graph is None and calls == _CAPTURE_AFTER:
            graph = torch.cuda.CUDAGraph()
            for generator in generators:
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph):
                step()
        calls += 1
        if graph is not None:
            graph.replay()
            return
        # CUDA graphs require that the steps before a capture run on a side stream.
        side, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            step()
        current.wait_stream(side)

    return run


def fallback(make: Callable[[], Step], eager: Step, name: str) -> Step:
    """A form that is replaced by the eager one, with a warning, if its first step fails before it changes anything."""
    form: Step | None = None

    def run() -> None:
        nonlocal form
        if form is eager:
            eager()
            return
        try:
            if form is None:
                form = make()
            form()
        except Exception as error:
            form = eager
            eager()  # an error of the step itself is raised again here
            reason = (str(error) or repr(error)).splitlines()[0]
            warnings.warn(ExecutionWarning(name, reason), stacklevel=2)

    return run


def fastest(forms: dict[str, Step], steps: int, device: torch.device) -> Iterator[None]:
    """Run one step per item, in the fastest of several forms, which is chosen by timing each on some of the steps."""
    seconds: dict[str, float] = {}
    for name, form in forms.items():
        if name == _COMPILED and min(seconds.values()) * steps < _WORTH_SECONDS:
            break
        times: list[float] = []
        for _ in range(_WARM_UP + _CAPTURE_AFTER + _TIMED):
            began = _now(device)
            form()
            times.append(_now(device) - began)
            yield
        steps -= len(times)
        seconds[name] = min(times[-_TIMED:])
    best = form = forms[min(seconds, key=lambda name: seconds[name])]
    forms.clear()  # frees the memory of the other forms
    while True:
        best()
        yield


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def compile_whole(module: nn.Module) -> nn.Module:
    """Compile the module without graph breaks, at its first call."""
    return cast(nn.Module, torch.compile(module, fullgraph=True))


def in_form(
    execution: Execution, eager: Step, compiled: Callable[[], Step], *, draws: torch.Generator, steps: int
) -> Step:
    """The form of a step that an execution selects; ``compiled`` creates the step with compiled networks."""
    device = draws.device
    cuda = device.type == "cuda"
    if execution.compile == "never" or (execution.compile == "capture" and not cuda):
        return eager
    capture = fallback(lambda: captured(eager, (draws,), device), eager, _CAPTURED)
    if cuda:
        whole = fallback(lambda: captured(compiled(), (draws,), device), eager, f"{_COMPILED} and {_CAPTURED}")
    else:
        whole = fallback(compiled, eager, _COMPILED)
    if execution.compile == "auto":
        forms = {"eager": eager, **({_CAPTURED: capture} if cuda else {}), _COMPILED: whole}
        return partial(next, fastest(forms, steps, device))
    return whole if execution.compile == "always" else capture


def exchanging(execution: Execution) -> None:
    """Warn that a step in which ranks exchange numbers runs eagerly, if another form was selected."""
    forms = {"capture": _CAPTURED, "always": _COMPILED}
    if form := forms.get(execution.compile):
        warnings.warn(ExecutionWarning(form, "ranks exchange numbers in the middle of it"), stacklevel=2)
