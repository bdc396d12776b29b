"""Execution of the hot loops: eager, compiled or captured; in float32 or bfloat16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import attrs
import torch

from exml.core.errors import ExmlWarning
from exml.core.validators import one_of


@attrs.frozen
class Execution:
    """How to execute the steps of the hot loops. Only ``bfloat16`` changes a result by more than rounding.

    A step that cannot be compiled or captured runs eagerly, with one :class:`exml.engine.ExecutionWarning`.

    Args:
        compile: ``"never"`` runs every step eagerly; on a CPU, the same seed then gives the same bits. ``"capture"``
            captures a step as one CUDA graph, on CUDA devices only. ``"always"`` also passes the networks through
            ``torch.compile(fullgraph=True)``, on any device. ``"auto"`` times a few steps in each form and uses the
            fastest if enough steps remain.
        precision: of the networks. With ``"bfloat16"`` they run under autocast; batch-norm statistics, priors, losses,
            images and weights stay float32. A CPU without instructions for bfloat16 is many times slower with it.

    >>> from exml.core.execution import Execution
    >>> Execution()
    Execution(compile='never', precision='float32')
    """

    compile: Literal["never", "capture", "always", "auto"] = attrs.field(
        default="never", validator=one_of("never", "capture", "always", "auto")
    )
    precision: Literal["float32", "bfloat16"] = attrs.field(default="float32", validator=one_of("float32", "bfloat16"))

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context for a forward pass of a network on a device."""
        return nullcontext() if self.precision == "float32" else torch.autocast(device.type, torch.bfloat16)


class ExecutionWarning(ExmlWarning):
    """A step runs eagerly because it cannot be compiled or captured, the ``form``, for a ``reason``."""

    def __init__(self, form: str, reason: str) -> None:
        super().__init__(f"this step cannot be {form} ({reason}); it runs operation by operation, with the same result")
        self.form, self.reason = form, reason


EAGER = Execution()
"""Eager execution in float32, the reference for the other forms."""
