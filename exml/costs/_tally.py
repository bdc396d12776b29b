"""What a computation takes, counted operation by operation, on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@attrs.frozen
class Tally:
    """What a call took.

    Args:
        peak: the most bytes of tensors that it made and held at one time; what libraries take for themselves is not
            counted, nor is what was there before.
        flops: floating-point operations of convolutions and matrix products, by PyTorch's own formulas. A
            :class:`torch.utils.flop_counter.FlopCounterMode` counts the same, but needs hooks on modules that a
            gradient of pixels does not allow.
    """

    peak: int
    flops: int


def tally(run: Callable[[], object]) -> Tally:
    """Make a call and count, also in its backward passes.

    >>> tally(lambda: torch.zeros(4) + torch.zeros(4).relu_())
    Tally(peak=48, flops=0)
    >>> tally(lambda: torch.zeros(2, 3) @ torch.zeros(3, 5)).flops
    60
    """
    counter = _Counter()
    with counter:
        run()
    return Tally(counter.most, counter.flops)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = self.flops = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = {_place(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and _place(value) not in known:
                self._note(value.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        place = storage.data_ptr()
        if place in self._sizes or not storage.nbytes():
            return
        self._sizes[place] = storage.nbytes()
        self.held += storage.nbytes()
        self.most = max(self.most, self.held)
        weakref.finalize(storage, self._forget, place).atexit = False

    def _forget(self, place: int) -> None:
        self.held -= self._sizes.pop(place, 0)


def _place(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()
