"""Batch statistics of the images compared with those of the expert's training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import attrs
import torch

from exml.core.activation import Activation, statistics_of
from exml.core.errors import ExpertError
from exml.core.registry import component
from exml.core.shapes import Images, Scalar
from exml.core.validators import field_error, in_range, one_of


def _names(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _layers(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    named = isinstance(value, tuple) and bool(value) and all(isinstance(name, str) for name in value)
    if not named and value not in ("all", "last"):
        expected = "'all', 'last' or a tuple of layer names"
        raise field_error(instance, attribute, value, expected, "name one layer as ('name',)")


@component
@attrs.frozen
class BatchNormStatistics:
    r"""Match the running statistics of batch-norm layers (Sec. 4.1, "Matching of batch normalization statistics").

    .. math::

        weight \cdot \sum_l \left(\lVert \mu_l - \mu_l^{syn} \rVert_2^2
        + \lVert \sigma_l - \sigma_l^{syn} \rVert_2^2\right)

    The sum is over layers; :math:`\mu_l^{syn}` and :math:`\sigma_l^{syn}` (biased) are those of the layer's input over
    the whole batch and all positions, so a larger batch estimates them better. A layer of any class with tensors
    ``running_mean`` and ``running_var`` counts as batch norm.

    Args:
        weight: >= 0.
        layers: ``"all"``, the ``"last"`` one in the order of the forward pass, or qualified names in the expert's
            module.
        statistic: whether σ is the standard deviation (the paper's text) or the variance.
        reduction: over the channels of a layer: their ``"sum"``, as in a norm, or their ``"mean"``. The paper's code
            is ``BatchNormStatistics(weight, layers="last", statistic="variance", reduction="mean", per="batch")``.
        per: count the penalty of a batch once for each ``"image"``, so that its balance with the other terms does not
            depend on the batch size, or once per ``"batch"``, as the paper's code does.
        absent: what to do for an expert without batch-norm layers: raise an ``"error"``, or return 0 (``"ignore"``),
            for streams in which only some experts have such layers.

    >>> import torch
    >>> from exml.priors import BatchNormStatistics
    >>> from torch import nn
    >>> from exml.priors import record_activations
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    >>> images = torch.randn(8, 3, 6, 6)
    >>> with record_activations(net) as activations:
    ...     _ = net(images)
    ...     penalty = BatchNormStatistics(10.0)(images, activations)
    >>> penalty.shape, bool(penalty > 0)
    (torch.Size([]), True)
    """

    weight: float = attrs.field(validator=in_range(0))
    layers: Literal["all", "last"] | tuple[str, ...] = attrs.field(default="all", converter=_names, validator=_layers)
    statistic: Literal["std", "variance"] = attrs.field(default="std", validator=one_of("std", "variance"))
    reduction: Literal["sum", "mean"] = attrs.field(default="sum", validator=one_of("sum", "mean"))
    per: Literal["image", "batch"] = attrs.field(default="image", validator=one_of("image", "batch"))
    absent: Literal["error", "ignore"] = attrs.field(default="error", validator=one_of("error", "ignore"))
    reads_activations = True

    def __call__(self, images: Images, activations: Sequence[Activation], /) -> Scalar:
        """The penalty of a batch from its ``activations``; raises an ExpertError if a layer is missing."""
        chosen = self._chosen(activations)
        if not chosen:
            return images.new_zeros(())
        spread, mean = statistics_of(chosen)
        wanted_mean = torch.cat([activation.running_mean for activation in chosen])
        wanted = torch.cat([activation.running_var for activation in chosen])
        if self.statistic == "std":
            # A constant channel has variance 0, where the derivative of the root is infinite; below the clamp it is 0.
            spread, wanted = spread.clamp_min(torch.finfo(spread.dtype).tiny).sqrt(), wanted.sqrt()
        distances = (mean - wanted_mean).square() + (spread - wanted).square()
        if self.reduction == "mean":
            sizes = [len(activation.running_mean) for activation in chosen]
            distances = torch.cat([layer.mean(0, keepdim=True) for layer in distances.split(sizes)])
        shard = chosen[0].shard
        images_in_all = len(images) if shard is None else shard.total
        return self.weight / (1 if self.per == "image" else images_in_all) * distances.sum()

    def _chosen(self, activations: Sequence[Activation]) -> Sequence[Activation]:
        present = list(dict.fromkeys(activation.layer for activation in activations))
        if not present and self.absent == "ignore":
            return ()
        if not present:
            raise ExpertError(
                expected="an expert with batch-norm layers that track running statistics, called in record_activations",
                got="no input of such a layer",
                remedy="remove BatchNormStatistics, or ignore such experts with absent='ignore'",
            )
        if self.layers == "all":
            return activations
        if self.layers == "last":
            return activations[-1:]
        if unknown := [name for name in self.layers if name not in present]:
            raise ExpertError(
                expected=f"batch-norm layers among {', '.join(map(repr, present))}",
                got=", ".join(map(repr, unknown)),
                remedy="name layers of this expert, or use layers='all'",
            )
        return [activation for activation in activations if activation.layer in self.layers]
