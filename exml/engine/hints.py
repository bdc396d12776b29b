"""Hints: the student also learns to predict the feature maps of the expert (Romero et al., "FitNets", 2015)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from exml.core.admission import evaluation_mode
from exml.core.errors import warn
from exml.core.expert import Expert
from exml.core.rng import global_seed
from exml.core.shapes import Images, Scalar

Resolution = tuple[int, int]


class Hints(nn.Module):
    """1x1 convolutions that predict feature maps of an expert from those of the student, one for each pair.

    A pair is the last feature map of each module at a resolution that both have, whatever the layers are called. The
    convolutions belong to one experience: they are trained with the student and then dropped. Without a common
    resolution there is no pair, which a warning says.

    Args:
        student: takes images in pixel units.
        expert: the teacher.
        images: ``(batch, channels, height, width)``, in pixel units: a few images for one forward pass.
        seed: of the initial weights.

    >>> import exml, torch
    >>> from exml.engine import Hints
    >>> student, module = (exml.models.ConvNet(1, 2, image_size=8, widths=(width, 8)) for width in (4, 6))
    >>> hints = Hints(student, exml.Expert(module, (0, 1), (1, 8, 8)), torch.rand(2, 1, 8, 8), seed=0)
    >>> [(pair.student, pair.expert, pair.resolution) for pair in hints.pairs]
    [('features.2', 'features.2', (8, 8)), ('features.6', 'features.6', (4, 4)), ('features.7', 'features.7', (2, 2))]
    """

    def __init__(self, student: nn.Module, expert: Expert, images: Images, seed: int) -> None:
        super().__init__()
        own = _feature_maps(student, images)
        theirs = _feature_maps(expert.module, expert.normalize(images))
        common = [resolution for resolution in theirs if resolution in own]
        if not common:
            expected = f"a feature map of expert {expert.name!r} at a resolution of the student, one of {list(own)}"
            warn(expected, f"{list(theirs)}, so only its logits are learned", "choose another student for hints")
        pairs: list[_Pair] = []
        self.maps = nn.ModuleList()
        with global_seed(seed, "hints"):
            for resolution in common:
                (source, given), (name, wanted) = own[resolution], theirs[resolution]
                pairs.append(_Pair(source, name, resolution, float(wanted.var().clamp_min(1e-6))))
                self.maps.append(nn.Conv2d(given.shape[1], wanted.shape[1], 1))
        self.pairs = tuple(pairs)
        self.to(images.device, images.dtype)

    @contextmanager
    def watching(self, student: nn.Module, expert: nn.Module) -> Generator[Watched]:
        """Within the block, keep the feature maps of the last forward pass of both modules."""
        watched = Watched(self)
        with ExitStack() as stack:
            for store, module, names in (
                (watched.own, student, [pair.student for pair in self.pairs]),
                (watched.theirs, expert, [pair.expert for pair in self.pairs]),
            ):
                for place, name in enumerate(names):
                    handle = module.get_submodule(name).register_forward_hook(partial(_keep, store, place))
                    stack.callback(handle.remove)
            yield watched


@attrs.frozen
class _Pair:
    """Two modules by qualified name, the resolution of their outputs, and the variance of the expert's."""

    student: str
    expert: str
    resolution: Resolution
    variance: float


@attrs.frozen(eq=False)
class Watched:
    """The feature maps of the last forward passes."""

    hints: Hints
    own: dict[int, Tensor] = attrs.field(factory=dict[int, Tensor])
    theirs: dict[int, Tensor] = attrs.field(factory=dict[int, Tensor])

    def loss(self) -> Scalar:
        """The sum over the pairs of the mean squared error, relative to the variance of the expert's feature map."""
        errors: list[Scalar] = []
        for place, (pair, predict) in enumerate(zip(self.hints.pairs, self.hints.maps, strict=True)):
            dtype = next(predict.parameters()).dtype  # that of the student; autocast returns bfloat16
            own, theirs = (maps[place].to(dtype) for maps in (self.own, self.theirs))
            errors.append(nn.functional.mse_loss(predict(own), theirs.detach()) / pair.variance)
        return torch.stack(errors).sum()


def _keep(store: dict[int, Tensor], place: int, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
    store[place] = output


@torch.no_grad()
def _feature_maps(module: nn.Module, images: Images) -> dict[Resolution, tuple[str, Tensor]]:
    """The last output at each resolution above 1x1 in a forward pass, with the name of the part that returns it."""
    found: dict[Resolution, tuple[str, Tensor]] = {}

    def record(name: str, _part: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2] * output.shape[-1] > 1:
            found[output.shape[-2], output.shape[-1]] = name, output.detach().clone()

    with ExitStack() as stack:
        for name, part in module.named_modules():
            if name:  # the module itself is the classifier
                stack.callback(part.register_forward_hook(partial(record, name)).remove)
        with evaluation_mode(module):
            module(images)
    return found
