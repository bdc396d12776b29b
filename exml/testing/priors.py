"""Conformance of priors and augmentations."""

from __future__ import annotations

import copy

import attrs
import torch
from torch import Tensor, nn

from exml.core.ranks import Ranks
from exml.core.shapes import Images
from exml.priors import record_activations
from exml.protocols import Augmentation, Prior
from exml.testing.component import check_component, require
from exml.testing.ranks import run_on_ranks


def check_prior(prior: Prior, image_shape: tuple[int, int, int] = (3, 8, 8)) -> None:
    """A prior is a component; its penalty is a finite, non-negative scalar, the mean over the batch, with a gradient.

    Two ranks that share out a batch have the penalty and the gradient of the whole.

    Args:
        prior: the one to check.
        image_shape: ``(channels, height, width)`` that it can take.

    Raises:
        AssertionError: naming the first property that does not hold.

    >>> from exml.priors import GaussianBlur
    >>> check_prior(GaussianBlur(0.1))
    """
    check_component(prior, "prior")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, *image_shape, generator=generator, requires_grad=True)
    network = nn.Sequential(nn.Conv2d(image_shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval().requires_grad_(False)
    with record_activations(network) as recorded:
        network(images)
        activations = tuple(recorded) if prior.reads_activations else ()
        penalty = prior(images, activations)
        again = prior(images, activations)
        network(torch.cat([images, images]))
        doubled = prior(torch.cat([images, images]), tuple(recorded) if prior.reads_activations else ())
    require(penalty.shape == (), "must give a 0-dimensional penalty", prior)
    require(bool(penalty.isfinite()) and bool(penalty >= 0), "must give a finite penalty of at least 0", prior)
    require(torch.equal(penalty, again), "must give the same penalty for the same images", prior)
    require(
        torch.allclose(penalty, doubled, rtol=1e-4, atol=1e-6),
        "must average over the batch: the same images twice give the same penalty",
        prior,
    )
    (gradient,) = torch.autograd.grad(penalty, images, materialize_grads=True)
    require(
        bool(gradient.isfinite().all()) and bool(gradient.any()),
        "must have a finite gradient, not all 0, to the images",
        prior,
    )
    shared = run_on_ranks(lambda ranks: _part(prior, network, images.detach(), ranks), 2)
    require(
        torch.allclose(torch.stack([part for part, _ in shared]).sum(), len(images) * penalty, rtol=1e-4, atol=1e-5)
        and torch.allclose(shared[0][1], len(images) * gradient, rtol=1e-3, atol=1e-5),
        "must be the same where ranks share out a batch: take statistics of activations by exml.priors.statistics_of",
        prior,
    )


def _part(prior: Prior, network: nn.Module, images: Images, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """A rank's part of the penalty of a batch, and the gradient of all ranks' images."""
    network, shard = copy.deepcopy(network), ranks.shard(len(images))
    own = images[shard.rows].requires_grad_()
    with record_activations(network) as recorded:
        network(own)
        activations = [attrs.evolve(part, shard=shard) for part in recorded] if prior.reads_activations else []
        part = shard.own * prior(own, activations)
    (gradient,) = torch.autograd.grad(part, own, materialize_grads=True)
    return part.detach(), shard.collect(gradient)


def check_augmentation(augmentation: Augmentation, image_shape: tuple[int, int, int] = (3, 8, 8)) -> None:
    """An augmentation is a component; it keeps the shape, is differentiable, and is a function of its generator.

    Args:
        augmentation: the one to check; its settings must change images.
        image_shape: ``(channels, height, width)`` that it can take.

    Raises:
        AssertionError: naming the first property that does not hold.

    >>> from exml.augmentation import Augmentation
    >>> check_augmentation(Augmentation(shift=2, flip=0.5))
    """
    check_component(augmentation, "augmentation")
    image = torch.rand(1, *image_shape, generator=torch.Generator().manual_seed(0))
    images = image.repeat(16, 1, 1, 1).requires_grad_()
    before = images.detach().clone()
    one = augmentation(images, torch.Generator().manual_seed(1))
    two = augmentation(images, torch.Generator().manual_seed(1))
    other = augmentation(images, torch.Generator().manual_seed(2))
    require(one.shape == images.shape and one.dtype == images.dtype, "must keep shape and type", augmentation)
    require(torch.equal(images.detach(), before), "must not change the images that it was given", augmentation)
    require(torch.equal(one, two), "must give the same images for the same generator state", augmentation)
    require(not torch.equal(one, other), "must draw from the generator that it was given", augmentation)
    require(
        not torch.equal(one, one[:1].expand_as(one)), "must draw parameters of its own for every image", augmentation
    )
    (gradient,) = torch.autograd.grad(one.sum(), images, materialize_grads=True)
    require(
        bool(gradient.isfinite().all()) and bool(gradient.any()),
        "must have a finite gradient, not all 0, to the images",
        augmentation,
    )
