"""The progress of a learner, and the states of modules and optimizers in its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from exml.core.errors import CheckpointError, StreamError
from exml.core.expert import Expert
from exml.core.shapes import State


@attrs.define
class RunState:
    """The progress of a learner.

    Args:
        experience: number of finished experiences.
        phase: phase of the current experience; ``"idle"`` between experiences.
        steps: optimizer steps made in the current distillation.
        known: global ids of the classes that the experts so far were trained on, ascending.
        present: global ids of the classes that they have an output unit for, ascending.
        in_flight: fingerprint of the current expert.
        memory: name of the memory file that belongs to this state.
    """

    experience: int = 0
    phase: Literal["idle", "generation", "distillation"] = "idle"
    steps: int = 0
    known: tuple[int, ...] = attrs.field(default=(), converter=tuple)
    present: tuple[int, ...] = attrs.field(default=(), converter=tuple)
    in_flight: str | None = None
    memory: str | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RunState:
        """From the record of a checkpoint; other keys are ignored."""
        return cls(**{field.name: record[field.name] for field in attrs.fields(cls)})

    def admit(self, expert: Expert) -> None:
        """Note the current expert, or refuse one with which the experience was not started.

        Raises:
            StreamError: the experience was started with another expert.
        """
        fingerprint = expert.fingerprint()
        if self.phase != "idle" and fingerprint != self.in_flight:
            raise StreamError(
                expected=f"the expert with which experience {self.experience + 1} was started",
                got=f"another one ({expert.name!r})",
                remedy="resume with the same stream",
            )
        self.in_flight = fingerprint

    def finish(self, expert: Expert) -> None:
        """Count a finished experience."""
        self.known = tuple(sorted({*self.known, *expert.classes}))
        self.present = tuple(sorted({*self.present, *(unit for unit in expert.outputs if unit is not None)}))
        self.experience, self.phase, self.steps, self.in_flight = self.experience + 1, "idle", 0, None


def copy_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's tensors."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def load_student(student: nn.Module, state: State, where: str) -> None:
    """Load the tensors of a checkpoint into a student.

    Raises:
        CheckpointError: the student has another architecture.
    """
    ours = {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if ours != theirs:
        name = min(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        raise CheckpointError(
            expected=f"the student of {where}",
            got=f"another architecture: {name} is {ours.get(name)} here and {theirs.get(name)} there",
            remedy="make the learner with a student of the same architecture",
        )
    student.load_state_dict(dict(state))


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """An optimizer's tensors by name; its settings belong to the strategy."""
    return {
        f"{index}.{name}": value
        for index, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """The inverse of :func:`optimizer_state`."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
