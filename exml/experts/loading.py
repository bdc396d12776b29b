"""An expert from its two files, in two steps: reading, which any thread may do, and building, which draws numbers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import attrs
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from exml.core.errors import ExmlError, ExpertError
from exml.core.expert import Expert
from exml.core.rng import global_seed
from exml.core.shapes import State
from exml.experts._fault import fault
from exml.experts.card import ExpertCard, read_card
from exml.models import build


@attrs.frozen(eq=False)
class ExpertFiles:
    """What the two files of an expert hold, whole and belonging together; there is no module yet.

    Args:
        path: of the card.
        card: as it was read.
        weights: tensors by name, on the CPU.
    """

    path: Path
    card: ExpertCard
    weights: State = attrs.field(repr=False)

    def expert(self, module: nn.Module | None = None, /) -> Expert:
        """Build the expert, in evaluation mode, as :func:`load_expert` does.

        For that torch's global generator is seeded and put back. It belongs to all threads: call this in the one that
        learns.

        Raises:
            ExpertError: the weights do not fit the module, or the architecture on the card.
        """
        try:
            module = _make(self.card) if module is None else module
            module.load_state_dict(self.weights)
        except (ExmlError, RuntimeError) as error:
            fault(
                self.path,
                error,
                "an architecture that its weights fit",
                "correct its architecture, or give the module",
            )
        return self.card.expert(module.eval())


def read_expert(path: Path | str, /) -> ExpertFiles:
    """Read an expert from the disk without building it; draws no random number, so another thread may do it.

    Args:
        path: of its card; the weights lie beside it.

    Raises:
        ExpertError: as :func:`load_expert`, for all that can be seen without the module.
    """
    path = Path(path)
    card = read_card(path)
    weights = path.with_suffix(".safetensors")
    try:
        data = weights.read_bytes()  # once, so that what is checked is what is loaded
        if card.sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != card.sha256:
            raise ExpertError(
                expected=f"SHA-256 {card.sha256}",
                got=found,
                remedy="get both files again: one of them is not the other's",
            )
        state = load(data)
    except (OSError, SafetensorError, ExpertError) as error:
        fault(weights, error, "whole weights", "get both files again")
    return ExpertFiles(path, card, state)


def load_expert(path: Path | str, module: nn.Module | None = None) -> Expert:
    """Load an expert onto the CPU, in evaluation mode.

    Args:
        path: of its card; the weights lie beside it.
        module: takes the weights, for a card without an architecture or instead of the one that it names.

    Raises:
        ExpertError: the card is faulty (:func:`read_card`), the weights are absent, truncated, not those that the card
            was written for, or do not fit the architecture.
    """
    return read_expert(path).expert(module)


def _make(card: ExpertCard) -> nn.Module:
    if card.architecture is None:
        raise ExpertError(expected="an architecture", got="null", remedy="give load_expert the module")
    with global_seed(0, "load"):  # the weights drawn here are overwritten, and nobody's random numbers are used up
        return build(card.architecture["name"], **card.architecture["settings"])
