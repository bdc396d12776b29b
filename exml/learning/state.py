"""Where a run is: the part of a learner that a checkpoint keeps beside tensors of the user's own parts."""

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
    """How far a learner is.

    Args:
        experience: experiences that are over.
        phase: what the experience under way is doing; ``"idle"`` between experiences.
        steps: optimizer steps made in the distillation under way.
        known: global ids of the classes that the experts so far were trained on, ascending.
        present: the same, of the classes that they had an output unit for.
        in_flight: fingerprint of the expert under way.
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
        """From the record of a checkpoint; its other keys are left alone."""
        return cls(**{field.name: record[field.name] for field in attrs.fields(cls)})

    def admit(self, expert: Expert) -> None:
        """Note the expert under way, or refuse one that is not the one that was.

        Raises:
            StreamError: an experience was begun with another expert.
        """
        fingerprint = expert.fingerprint()
        if self.phase != "idle" and fingerprint != self.in_flight:
            raise StreamError(
                expected=f"the expert with which experience {self.experience + 1} was begun",
                got=f"another one ({expert.name!r})",
                remedy="resume with the same stream",
            )
        self.in_flight = fingerprint

    def finish(self, expert: Expert) -> None:
        """One experience more is over."""
        self.known = tuple(sorted({*self.known, *expert.classes}))
        self.present = tuple(sorted({*self.present, *(unit for unit in expert.outputs if unit is not None)}))
        self.experience, self.phase, self.steps, self.in_flight = self.experience + 1, "idle", 0, None


def copy_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors, as they are now."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def load_student(student: nn.Module, state: State, where: str) -> None:
    """Give a student the tensors of a checkpoint.

    Raises:
        CheckpointError: it has another architecture.
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
    """An optimizer's tensors by name; its settings are the strategy's."""
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
