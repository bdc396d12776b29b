"""The default strategy, chosen from the metadata of the experts."""

from __future__ import annotations

import math

import attrs
import torch
from torch import nn

from exml.augmentation import Augmentation
from exml.buffers import Cumulative
from exml.calibrations import STEPS, Center, CommonScale, Energy, MatchedTemperature, PoolOffset, RootNorm, Scale
from exml.combiners import ByClass, SideBySide
from exml.experts import ExpertProfile
from exml.generators import EvolvedDrawings, Mixture, ModelInversion, ProceduralImages
from exml.learning.builder import CompleteBuilder, StrategyBuilder
from exml.losses import Distillation, KLDivergence, MeanSquaredError, Sum, Weighted
from exml.models import Normalized
from exml.normalizers import CenterLogits, RawLogits
from exml.priors import BatchNormStatistics
from exml.recipes.distillation import BUFFER, TRAINING, combiner_for, data_impression, statistics_for

_TURNED = Augmentation(shift=3, rotation=15.0, flip=0.5)
_COLOR_STEPS = (Center(), RootNorm(), MatchedTemperature(), Energy(1.0), PoolOffset(), Scale(3.0))
_BRIGHT = 0.15  # mean of images with more foreground than handwriting has
_ROOM = 2**29  # values of the images in the buffer and their views: 2 GiB


def default(profile: ExpertProfile, *, student: nn.Module | None = None) -> CompleteBuilder:
    """The recommended strategy, chosen from the metadata of all experts, in any order.

    **Unlike experts**, whose weights differ in their layout, or whose heads are not of full width, without task labels;
    on color images only without batch norm or with different classes. Their logits have nothing in common, so
    :class:`exml.calibrations.CommonScale` puts them on one scale (on color images without typicality, and with all of
    the energy subtracted), and the target of a class that several experts know is the mean of theirs:

    - The images are procedural, drawings that evolved towards each expert's classes, and, if all experts have
      gradients, drawings inverted for a few steps.
    - The student matches the calibrated logits side by side (MSE), and their softmax (KL). They are stored with the
      buffer, so that each expert is asked about an image once. Where all experts have the same classes, the KL term
      counts more, and the learning rate is higher. Where no two experts share a class, the targets of an image have a
      margin of 4 (``Training(margin=...)``) over the classes of other experts, and mini-batches are class-balanced.

    **Grayscale images, all experts with batch norm.** Data Impression ED (Sec. 4) with the priors of appendix B.1.2 and
    λ_CE = 10. The teachers label eight views of each image once.

    **Several alike experts without batch norm, on grayscale images, without task labels.** Experts without batch norm,
    LeNet-5 for example, soon assign any image to a class with certainty (Sec. 5, "Buffer samples"), so nothing is
    inverted, and their logits tell little about classes that they do not know. Their weights tell more: the images are
    drawings, random and evolved, and :class:`exml.calibrations.Typicality` enters the targets, which are stored with
    the buffer. Half of the drawings are solid shapes if the experts' normalization indicates that the foreground covers
    more than handwriting does. The student starts as a copy of the first expert if possible.

    **Other experts without batch norm, or one without gradients.** Nothing is inverted:

    - Procedural images with full contrast replace the data: light strokes if the experts' normalization indicates dark
      images, dark strokes otherwise, and all kinds for color images.
    - The student matches each teacher's logits over the classes that it knows, centered and side by side, minus 0.4 of
      the expert's mean logits. There is no cross-entropy. With task labels, each teacher supervises its own task.
    - A single expert on grayscale images is learned in four times as many steps as each of several.
    - The student starts as a copy of the first expert if possible.

    **Color images, and batch norm in some experts at least.** Half of the images are procedural, the others are
    inverted from such images for fifteen steps. The student matches the centered logits of both teachers side by side,
    and learns from the feature maps of the experts too (``Training(hints=...)``). Unless all experts have the same
    classes, they are put on the scale of the first one, minus 0.4 of their mean logits. If all experts have batch norm
    and the student can copy them, it starts as a copy of the first one. With task labels in addition, nothing is
    inverted, and there are no feature maps: the copy keeps its running statistics, and its last layer starts each
    experience from the closed form of ridge regression. A single expert is learned in twice as many steps as each of
    several.

    The buffer has fewer images if they are large: with their views, they take at most 2 GiB.

    Args:
        profile: of the experts.
        student: the module that will learn; by default one like the first expert, with an output for each class. It
            can be a copy of the first expert if the weights of all experts have its layout, with outputs in the order
            of the class ids.

    >>> from exml.recipes import default
    >>> from exml import scenarios
    >>> profile = scenarios.load("digits-nc").profile()
    >>> default(profile).build().generator
    DataImpression(iterations=150, learning_rate=0.05, temperature=20.0, batch_size=512, ...)
    """
    with_statistics = [bool(expert.running_statistics) for expert in profile.experts]
    hinted = any(with_statistics) and _have_same_classes(profile)
    if _are_unlike(profile) and (profile.image_shape[0] == 1 or not hinted):
        return _calibrated(profile)
    copies = _can_copy(profile, student)
    if not any(with_statistics) or not all(expert.differentiable for expert in profile.experts):
        several = profile.count != 1 and profile.tasks is None
        return _typical(profile, copies) if several and profile.image_shape[0] == 1 else _matching(profile, copies)
    if all(with_statistics) and profile.image_shape[0] == 1:
        return _impression(profile)
    copies = copies and all(with_statistics)
    return _continuing(profile) if copies and profile.tasks is not None else _with_hints(profile, copies)


def _calibrated(profile: ExpertProfile) -> CompleteBuilder:
    drawings = _drawings(profile)
    evolved = EvolvedDrawings(steps=100, snapshots=2, typicality=0.5, polarity=drawings.polarity)
    pool = attrs.evolve(CommonScale().drawings, polarity=drawings.polarity)
    textures = ProceduralImages(("dead-leaves", "noise"), full_contrast=True)
    generators, weights = (drawings, textures, evolved), (2.0, 0.5, 1.0)
    priors: tuple[BatchNormStatistics, ...] = ()
    if all(expert.differentiable for expert in profile.experts):
        inverted = ModelInversion(iterations=15, learning_rate=0.04, batch_size=256, start=drawings)
        generators, weights, priors = (*generators, inverted), (*weights, 1.5), statistics_for(profile, 10.0)
    rate, divergence = (0.01, 8.0) if _have_same_classes(profile) else (0.003, 2.0)
    training = attrs.evolve(TRAINING, iterations=4_000, batch_size=64, learning_rate=rate, stored=True, views=1)
    if _share_no_class(profile):
        training = attrs.evolve(training, margin=4.0, sampling="class-balanced")
    return (
        StrategyBuilder()
        .buffer(_buffer(profile, 32_000))
        .training(training)
        .generator(Mixture(generators, weights))
        .priors(*priors)
        .augmentation(Augmentation(shift=2, rotation=8.0, scale=0.08))
        .calibration(CommonScale(STEPS if profile.image_shape[0] == 1 else _COLOR_STEPS, drawings=pool))
        .combiner(SideBySide())
        .loss(Sum((MeanSquaredError("seen", "mean"), Weighted(KLDivergence(1.2), divergence))))
    )


def _typical(profile: ExpertProfile, copies: bool) -> CompleteBuilder:
    polarity = _drawings(profile).polarity
    mean = sum(expert.mean[0] for expert in profile.experts) / len(profile.experts)
    filled = 0.5 if (mean if polarity == "light" else 1 - mean) > _BRIGHT else 0.0
    evolved = EvolvedDrawings(copies=4, polarity=polarity, filled=filled)
    drawings = EvolvedDrawings(steps=0, polarity=polarity, filled=filled)
    return (
        StrategyBuilder()
        .buffer(_buffer(profile, 20_000))
        .training(attrs.evolve(TRAINING, iterations=1_600, batch_size=128, learning_rate=0.004, stored=True))
        .generator(Mixture((drawings, evolved), (1.0, 2.0)))
        .calibration(CommonScale(drawings=attrs.evolve(CommonScale().drawings, polarity=polarity)))
        .combiner(SideBySide())
        .loss(Sum((MeanSquaredError("seen", "mean"), Weighted(KLDivergence(1.2), 3.0))))
        .student("first-expert" if copies else "continue")
    )


def _impression(profile: ExpertProfile) -> CompleteBuilder:
    builder = data_impression(profile).training(attrs.evolve(TRAINING, iterations=1_600, views=8))
    return builder.buffer(_buffer(profile, BUFFER.size, views=8)).loss(Distillation(cross_entropy=10.0))


def _matching(profile: ExpertProfile, copies: bool) -> CompleteBuilder:
    has_tasks = profile.tasks is not None
    iterations = 12_000 if profile.count == 1 and profile.image_shape[0] == 1 else 3_000
    return (
        StrategyBuilder()
        .buffer(_buffer(profile, 12_000, views=4))
        .training(attrs.evolve(TRAINING, iterations=iterations, batch_size=64, learning_rate=0.005, views=4))
        .generator(_drawings(profile))
        .augmentation(Augmentation(shift=2))
        .normalizer(RawLogits() if has_tasks else CenterLogits())
        .combiner(combiner_for(profile, ByClass() if has_tasks else SideBySide(calibration=0.4)))
        .loss(MeanSquaredError("seen"))
        .student("first-expert" if copies else "continue")
    )


def _continuing(profile: ExpertProfile) -> CompleteBuilder:
    training = attrs.evolve(TRAINING, iterations=300, batch_size=64, learning_rate=0.002, views=2)
    return (
        StrategyBuilder()
        .buffer(_buffer(profile, 3_000, views=2))
        .training(attrs.evolve(training, clip_norm=1.0, ridge=0.01, batch_norm="running"))
        .generator(_drawings(profile))
        .augmentation(_TURNED)
        .normalizer(CenterLogits())
        .combiner(SideBySide(calibration=0.4, scale="previous"))
        .loss(MeanSquaredError("seen"))
        .student("first-expert")
    )


def _with_hints(profile: ExpertProfile, copies: bool) -> CompleteBuilder:
    drawings = _drawings(profile)
    inverted = ModelInversion(iterations=15, learning_rate=0.1, batch_size=256, start=drawings)
    iterations, batch_size, size = (1_700, 32, 4_000) if copies else (8_000, 16, 8_000)
    iterations *= 2 if profile.count == 1 else 1
    training = attrs.evolve(TRAINING, iterations=iterations, batch_size=batch_size, learning_rate=0.003)
    same = _have_same_classes(profile)
    return (
        StrategyBuilder()
        .buffer(_buffer(profile, size))
        .training(attrs.evolve(training, clip_norm=100.0, hints=60.0))
        .generator(Mixture((inverted, drawings)))
        .priors(*statistics_for(profile, 10.0))
        .augmentation(_TURNED if profile.image_shape[0] > 1 else Augmentation(shift=1))
        .normalizer(CenterLogits())
        .combiner(SideBySide() if same else SideBySide(calibration=0.4, scale="previous"))
        .loss(MeanSquaredError("seen", reduction="mean"))
        .student("first-expert" if copies else "continue")
    )


def _buffer(profile: ExpertProfile, size: int, views: int = 0) -> Cumulative:
    return Cumulative(min(size, max(1, _ROOM // ((1 + views) * math.prod(profile.image_shape)))))


def _drawings(profile: ExpertProfile) -> ProceduralImages:
    return ProceduralImages.resembling(profile.image_shape[0], [expert.mean[0] for expert in profile.experts])


def _have_same_classes(profile: ExpertProfile) -> bool:
    return all(set(expert.classes) == set(profile.experts[0].classes) for expert in profile.experts)


def _share_no_class(profile: ExpertProfile) -> bool:
    classes = [name for expert in profile.experts for name in expert.classes]
    return len(set(classes)) == len(classes)


def _are_unlike(profile: ExpertProfile) -> bool:
    first, outputs = profile.experts[0], tuple(range(profile.classes))
    alike = all((expert.shapes, expert.outputs) == (first.shapes, outputs) for expert in profile.experts)
    return len(profile.experts) > 1 and profile.tasks is None and not (alike and first.shapes)


def _can_copy(profile: ExpertProfile, student: nn.Module | None) -> bool:
    """Whether there are several experts, and the student could be a copy of any, so that the order does not matter."""
    first, outputs = profile.experts[0], tuple(range(profile.classes))
    alike = all((expert.shapes, expert.outputs) == (first.shapes, outputs) for expert in profile.experts)
    alike = alike and bool(first.shapes)
    if profile.count == 1 or not alike or student is None:
        return profile.count != 1 and alike
    inner, mean, std = student, torch.zeros(1), torch.ones(1)
    if isinstance(student, Normalized):
        inner, mean, std = student.module, student.mean.cpu().flatten(), student.std.cpu().flatten()
    shapes = {name: tuple(tensor.shape) for name, tensor in inner.state_dict().items()}
    pairs = ((torch.tensor(first.mean), mean), (torch.tensor(first.std), std))
    return shapes == first.shapes and all(torch.equal(*torch.broadcast_tensors(*pair)) for pair in pairs)
