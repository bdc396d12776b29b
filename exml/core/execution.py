"""Execution of the hot loops: eager, compiled or captured; in float32 or bfloat16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import attrs
import torch

from exml.core.validators import one_of


@attrs.frozen
class Execution:
    """How to execute the steps of the hot loops. Only ``bfloat16`` changes a result by more than rounding.

    Args:
        compile: ``"never"`` launches every operation by itself. On a CPU the same seed then gives the same numbers, bit
            for bit. ``"capture"`` captures a whole step as one CUDA graph on a CUDA device; elsewhere it is
            ``"never"``. ``"always"`` also passes the networks through ``torch.compile(fullgraph=True)``, on any device.
            ``"auto"`` times some steps in each form and makes the others in the fastest, if enough steps remain. A
            step that cannot be compiled or captured runs as with ``"never"``, with one
            :class:`exml.engine.ExecutionWarning`.
        precision: of the networks. With ``"bfloat16"`` they run under autocast, while batch-norm statistics, priors,
            losses, images and weights stay float32.

    >>> Execution()
    Execution(compile='never', precision='float32')
    """

    compile: Literal["never", "capture", "always", "auto"] = attrs.field(
        default="never", validator=one_of("never", "capture", "always", "auto")
    )
    precision: Literal["float32", "bfloat16"] = attrs.field(default="float32", validator=one_of("float32", "bfloat16"))

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context for a forward pass of a network on a device."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)


class ExecutionWarning(UserWarning):
    """A faster form of a step is not available; the step runs operation by operation.

    Args:
        form: the form requested: ``"compiled"``, ``"captured as a CUDA graph"``.
        reason: why it is not available.
    """

    def __init__(self, form: str, reason: str) -> None:
        super().__init__(
            f"this step cannot be {form} ({reason}); it is executed operation by operation, which gives the same result"
        )
        self.form, self.reason = form, reason


EAGER = Execution()
"""Operation by operation in float32, the form with which all others are compared."""
