"""How the hot loops are executed: step by step, compiled, or captured; in float32 or bfloat16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import attrs
import torch

from exml.core.validators import one_of


@attrs.frozen
class Execution:
    """What may be traded for speed. It changes a result by rounding alone, but for ``bfloat16``.

    Args:
        compile: ``"never"``: every operation is launched by itself. On a CPU the same seed then gives the same numbers,
            bit for bit. ``"capture"``: on a CUDA device a whole step is captured as one CUDA graph and launched at
            once; elsewhere as ``"never"``. ``"always"``: the networks go through ``torch.compile(fullgraph=True)``
            as well, on any device. ``"auto"``: where enough work is ahead, each form makes
            some of the steps, and the fastest makes the others. What cannot be compiled or captured is executed as by
            ``"never"``, with one :class:`exml.engine.ExecutionWarning`.
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
    """A faster form of a step could not be had; the step is executed operation by operation.

    Args:
        form: what it should have been: ``"compiled"``, ``"captured as a CUDA graph"``.
        reason: why it is not.
    """

    def __init__(self, form: str, reason: str) -> None:
        super().__init__(
            f"this step cannot be {form} ({reason}); it is executed operation by operation, which gives the same result"
        )
        self.form, self.reason = form, reason


EAGER = Execution()
"""Operation by operation in float32: the form that all others are compared with."""
