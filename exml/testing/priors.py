"""Conformance of priors and augmentations."""

from __future__ import annotations

import copy

import attrs
import torch
from torch import Tensor, nn

from exml.core.outputs import described, is_a
from exml.core.ranks import ALONE, Ranks
from exml.core.shapes import Images
from exml.priors import record_activations
from exml.protocols import Augmentation, Prior
from exml.testing.component import check_component, found, requirement, success
from exml.testing.ranks import run_on_ranks


def check_prior(prior: Prior, image_shape: tuple[int, int, int] = (3, 8, 8)) -> None:
    """Check that a prior is a component and a finite, non-negative mean over the batch with a gradient.

    On two ranks that share a batch, penalty and gradient must be those of the whole batch. The prior must support
    images of ``image_shape``, ``(channels, height, width)``.

    >>> from exml.testing import check_prior
    >>> from exml.priors import GaussianBlur
    >>> check_prior(GaussianBlur(0.1))
    """
    check_component(prior, "prior")
    must = requirement(prior)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, *image_shape, generator=generator, requires_grad=True)
    network = nn.Sequential(nn.Conv2d(image_shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval().requires_grad_(False)
    with record_activations(network) as recorded:
        network(images)
        activations = tuple(recorded) if prior.reads_activations else ()
        penalty, again = prior(images, activations), prior(images, activations)
        scalar = is_a(penalty, Tensor) and penalty.shape == ()
        must(scalar, "return a 0-dimensional penalty", "reduce over images and pixels", found(penalty))
        must(penalty.requires_grad, "have a gradient to the images", "do not detach them")
        network(torch.cat([images, images]))
        doubled = prior(torch.cat([images, images]), tuple(recorded) if prior.reads_activations else ())
    sound = bool(penalty.isfinite() & (penalty >= 0))
    must(sound, "return a finite penalty of at least 0", "use squares or norms", float(penalty.detach()))
    must(torch.equal(penalty, again), "return the same penalty for the same images", "do not draw random numbers")
    average = torch.allclose(penalty, doubled, rtol=1e-4, atol=1e-6)
    must(average, "average over the batch", "use the mean over images")
    (gradient,) = torch.autograd.grad(penalty, images, materialize_grads=True)
    _check_gradient(gradient, prior)
    for level in (0.0, 1.0):
        plain = _part(prior, network, torch.full_like(images, level, requires_grad=False), ALONE)
        finite = all(bool(tensor.isfinite().all()) for tensor in plain)
        what, got = "have a finite gradient for images of one color", f"NaN or infinity where all pixels are {level:g}"
        must(finite, what, "add an epsilon inside roots and norms", got)
    remedy = "create tensors on the device and in the type of the images"
    with success(prior, "support float64 images", remedy):
        exact, slope = _part(prior, copy.deepcopy(network).double(), images.detach().double(), ALONE)
    must(exact.dtype == torch.float64, "return a penalty of the type of the images", remedy, exact.dtype)
    close = torch.allclose(slope.float(), len(images) * gradient, rtol=1e-3, atol=1e-4)
    must(close, "have the gradient of float64 images", remedy)
    parts, (whole, _) = zip(*run_on_ranks(lambda ranks: _part(prior, network, images.detach(), ranks), 2), strict=True)
    same = torch.allclose(torch.stack(parts).sum(), len(images) * penalty, rtol=1e-4, atol=1e-5)
    same = same and torch.allclose(whole, len(images) * gradient, rtol=1e-3, atol=1e-5)
    remedy = "compute statistics of activations by exml.priors.statistics_of"
    must(same, "be the same where ranks share a batch", remedy)


def _part(prior: Prior, network: nn.Module, images: Images, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """This rank's part of the penalty of a batch, and the gradient of all ranks' images."""
    network, shard = copy.deepcopy(network), ranks.shard(len(images))
    own = images[shard.rows].requires_grad_()
    with record_activations(network) as recorded:
        network(own)
        activations = [attrs.evolve(part, shard=shard) for part in recorded] if prior.reads_activations else []
        part = shard.own * prior(own, activations)
    (gradient,) = torch.autograd.grad(part, own, materialize_grads=True)
    return part.detach(), shard.collect(gradient)


def check_augmentation(augmentation: Augmentation, image_shape: tuple[int, int, int] = (3, 8, 8)) -> None:
    """Check that an augmentation is a component, differentiable, and a function of images and generator.

    Its settings must change images, and support ``image_shape``, ``(channels, height, width)``.

    >>> from exml.testing import check_augmentation
    >>> from exml.augmentation import Augmentation
    >>> check_augmentation(Augmentation(shift=2, flip=0.5))
    """
    check_component(augmentation, "augmentation")
    must = requirement(augmentation)
    image = torch.rand(1, *image_shape, generator=torch.Generator().manual_seed(0))
    images = image.repeat(16, 1, 1, 1).requires_grad_()
    before = images.detach().clone()
    one = augmentation(images, torch.Generator().manual_seed(1))
    two = augmentation(images, torch.Generator().manual_seed(1))
    other = augmentation(images, torch.Generator().manual_seed(2))
    same = is_a(one, Tensor) and (one.shape, one.dtype) == (images.shape, images.dtype)
    must(same, "keep shape and type", "return images like the given ones", described(one))
    must(torch.equal(images.detach(), before), "not modify the given images", "avoid in-place operations")
    must(torch.equal(one, two), "return the same images for the same generator state", "draw from the given one only")
    must(not torch.equal(one, other), "draw from the given generator", "pass it to torch's random functions")
    same = torch.equal(one, one[:1].expand_as(one))
    must(not same, "draw parameters for every image", "draw one row per image")
    must(one.requires_grad, "have a gradient to the images", "use differentiable operations, and do not detach")
    (gradient,) = torch.autograd.grad(one.sum(), images, materialize_grads=True)
    _check_gradient(gradient, augmentation)


def _check_gradient(gradient: Tensor, component: Prior | Augmentation) -> None:
    good = bool(gradient.isfinite().all()) and bool(gradient.any())
    requirement(component)(good, "have a finite gradient, not all 0, to the images", "use differentiable operations")
