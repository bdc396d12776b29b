"""Classifiers that can only be called: a function from images to logits or probabilities, as a module."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from exml.core.admission import guarded
from exml.core.errors import ExpertError
from exml.core.shapes import Images

Query = Callable[[np.ndarray], Any]
_LEAST = 1e-4  # of a probability: a forest of 100 trees knows no number between 0 and 0.01


class QueryModule(nn.Module):
    """Calls a function with mini-batches of images; its logits have no gradient.

    Args:
        function: as for :meth:`exml.Expert.query`.
        units: the number of columns that it must return.
        output: what it returns.
        batch_size: of one call.
        owner: the expert's name, for errors.
    """

    def __init__(
        self, function: Query, units: int, output: Literal["logits", "probabilities"], batch_size: int, owner: str
    ) -> None:
        super().__init__()
        self._function, self._units, self._output = function, units, output
        self._batch_size, self._owner = batch_size, owner
        self.register_buffer("place", torch.empty(0), persistent=False)  # moves with the module

    def forward(self, images: Images) -> Tensor:
        """Logits ``(batch, units)`` of images in pixel units, which are clamped to [0, 1]."""
        parts = images.detach().float().clamp(0, 1).cpu().split(self._batch_size)
        columns = torch.from_numpy(np.concatenate([self._call(part.numpy()) for part in parts]))
        if self._output == "probabilities":
            columns = columns.clamp(min=_LEAST).log()
        return columns.to(images.device)

    def _call(self, images: np.ndarray) -> np.ndarray:
        require = partial(self._require, remedy="correct the function")
        shape = len(images), self._units
        with guarded(self, f"a function that takes images {images.shape} (expert {self._owner!r})", "correct it"):
            returned = self._function(images)
            columns = returned.numpy(force=True) if isinstance(returned, Tensor) else np.asarray(returned)
            require(np.issubdtype(columns.dtype, np.number), f"{self._output} as numbers", str(columns.dtype))
            require(columns.shape == shape, f"{self._output} {shape}, a row per image", str(columns.shape))
            require(bool(np.isfinite(columns).all()), f"finite {self._output}", "NaN or infinity")
        if self._output == "probabilities":
            inside = bool(((columns >= -1e-3) & (columns <= 1 + 1e-3)).all())
            got = f"numbers from {columns.min():.3g} to {columns.max():.3g}"
            self._require(inside, "probabilities from 0 to 1", got, 'say output="logits"')
        return np.ascontiguousarray(columns, dtype=np.float32)

    def _require(self, ok: bool, expected: str, got: str, remedy: str) -> None:
        if not ok:
            raise ExpertError(expected=f"{expected} (expert {self._owner!r})", got=got, remedy=remedy)
