"""Loads an expert in two steps: reading, which any thread may do, and building, which draws random numbers."""

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
from exml.experts.card import ExpertCard, fault, read_card
from exml.models import build


@attrs.frozen(eq=False)
class ExpertFiles:
    """The checked content of the two files of an expert, before a module is built.

    Args:
        path: of the card.
        card: the metadata.
        weights: tensors by name, on the CPU.
    """

    path: Path
    card: ExpertCard
    weights: State = attrs.field(repr=False)

    def expert(self, module: nn.Module | None = None, /) -> Expert:
        """Build the expert, in evaluation mode, as :func:`load_expert` does.

        This seeds torch's global generator, which all threads share, and restores it: call it in the thread that
        learns.

        Raises:
            ExpertError: when the weights do not fit the module, or the architecture on the card.
        """
        try:
            module = _make(self.card) if module is None else module
            module.load_state_dict(self.weights)
        except (ExmlError, RuntimeError) as error:
            fault(self.path, error, "an architecture that its weights fit", "correct the card, or give the module")
        return self.card.expert(module.eval())


def read_expert(path: Path | str, /) -> ExpertFiles:
    """Read an expert without building it. This draws no random numbers, so any thread may do it.

    Args:
        path: of its card, next to the weights.

    Raises:
        ExpertError: as :func:`load_expert`, except for weights that do not fit the architecture.
    """
    path = Path(path)
    card = read_card(path)
    weights = path.with_suffix(".safetensors")
    try:
        data = weights.read_bytes()  # read once, so that the loaded bytes are the checked ones
        if card.sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != card.sha256:
            remedy = "get both files again: they do not belong together"
            raise ExpertError(expected=f"SHA-256 {card.sha256}", got=found, remedy=remedy)
        state = load(data)
    except (OSError, SafetensorError, ExpertError) as error:
        fault(weights, error, "complete weights", "get both files again")
    return ExpertFiles(path, card, state)


def load_expert(path: Path | str, module: nn.Module | None = None) -> Expert:
    """Load an expert onto the CPU, in evaluation mode.

    Args:
        path: of its card, next to the weights.
        module: the module for the weights, for a card without an architecture or in place of that architecture.

    Raises:
        ExpertError: when the card is faulty (:func:`read_card`), or the weights are missing, truncated, different from
            the card's checksum, or do not fit the architecture.
    """
    return read_expert(path).expert(module)


def _make(card: ExpertCard) -> nn.Module:
    if card.architecture is None:
        raise ExpertError(expected="an architecture", got="null", remedy="give load_expert the module")
    with global_seed(0, "load"):  # the initial weights are overwritten
        return build(card.architecture["name"], **card.architecture["settings"])
