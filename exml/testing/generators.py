"""Conformance of generators, calibrations, baselines and buffer policies."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn

from exml.core.expert import Expert
from exml.core.outputs import described, is_a
from exml.core.samples import Samples
from exml.core.shapes import State
from exml.experts import ExpertStream
from exml.protocols import Baseline, BufferPolicy, Calibration, Generator
from exml.testing.component import check_component, found, requirement, success


def tiny_expert(image_shape: tuple[int, int, int] = (1, 8, 8)) -> Expert:
    """A small untrained expert with batch norm, a head of the full width 6, and the classes 1 and 4.

    >>> from exml.testing import tiny_expert
    >>> tiny_expert().classes
    (1, 4)
    """
    channels, height, width = image_shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Linear(4 * (height - 2) * (width - 2), 6)
        network = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), head)
    return Expert(network.train(), (1, 4), image_shape, outputs=range(6), mean=(0.5,), std=(0.25,), task=2)


_FARTHEST = 10.0  # optimized images may leave the range from 0 to 1, but not by that much


def check_generator(generator: Generator, image_shape: tuple[int, int, int] = (1, 8, 8), size: int = 7) -> None:
    """Check that a generator is a component, makes the requested samples from a seed, and restores the expert.

    The generator should have few iterations and must support the shape, ``(channels, height, width)``.

    >>> from exml.testing import check_generator
    >>> from exml.generators import ProceduralImages
    >>> check_generator(ProceduralImages())
    """
    check_component(generator, "generator")
    must = requirement(generator)
    expert = tiny_expert(image_shape)
    before = {name: tensor.clone() for name, tensor in expert.module.state_dict().items()}
    with torch.random.fork_rng(devices=[]), success(generator, "make samples"):
        torch.manual_seed(-1)  # a seed that no generator has
        state = torch.get_rng_state()
        one, other = (generator(expert, size, seed) for seed in (1, 2))
        _require_unchanged(generator, expert, before)
        expert.module.eval()
        two, alone = generator(expert, size, 1), generator(expert, 1, 0)
        _require_unchanged(generator, expert, before, training=False)
        alike = torch.equal(state, torch.get_rng_state())
    must(is_a(one, Samples), "return Samples", "return exml.generators.labeled(...)", described(one))
    must(len(one) == size, f"make the {size} samples asked of it", "return as many as size says", len(one))
    shape = tuple(one.images.shape[1:])
    must(shape == image_shape, f"make images of the expert's shape {image_shape}", "use expert.image_shape", shape)
    remedy = "divide values up to 255 by 255" if one.images.dtype == torch.uint8 else "convert them with .float()"
    must(one.images.dtype == torch.float32, "make float32 images", remedy, one.images.dtype)
    must(not one.images.requires_grad, "return images without a graph", "detach them")
    must(bool(one.images.isfinite().all()), "make finite images", "avoid divisions by 0")
    low, high = map(float, one.images.aminmax())
    remedy = "divide values up to 255 by 255, and return expert.denormalize(...) of normalized images"
    near = max(-low, high) <= _FARTHEST
    must(near, "make images in pixel units, from 0 to 1", remedy, f"values from {low:.3g} to {high:.3g}")
    known = bool(torch.isin(one.labels, expert.class_ids).all())
    must(known, "label images with classes of the expert", "label them by exml.generators.labeled")
    must(
        bool((one.tasks == 2).all()),
        "set the expert's task",
        "label by exml.generators.labeled, or pass task=expert.task",
    )
    same = torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)
    must(same, "make the same samples for the same seed", "draw from exml.core.rng.make_generator")
    differs = not torch.equal(one.images, other.images)
    must(differs, "make other samples for another seed", "derive every draw from the seed")
    must(alike, "leave torch's global generator alone", "draw from exml.core.rng.make_generator")
    must(len(alone) == 1, "be able to make a single sample", "support size=1", len(alone))


def check_calibration(calibration: Calibration, image_shape: tuple[int, int, int] = (1, 8, 8)) -> None:
    """Check that a calibration is a component, keeps the order of the expert's classes, and restores the expert.

    >>> from exml.testing import check_calibration
    >>> from exml.calibrations import CommonScale
    >>> from exml.generators import EvolvedDrawings
    >>> check_calibration(CommonScale(drawings=EvolvedDrawings(steps=2, pool=20)))
    """
    check_component(calibration, "calibration")
    must = requirement(calibration)
    expert = tiny_expert(image_shape)
    before = {name: tensor.clone() for name, tensor in expert.module.state_dict().items()}
    images = torch.rand(5, *image_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one = calibration(expert, 1)
        must(is_a(one, Expert), "return an Expert", "use attrs.evolve(expert, module=...)", described(one))
        _require_unchanged(calibration, expert, before)
        expert.module.eval()
        again = calibration(expert, 1)
        logits = one.logits(images)
        alone = torch.cat([one.logits(image) for image in images.split(1)])
        order = one.own_logits(logits).argsort(1).equal(expert.own_logits(expert.logits(images)).argsort(1))
        must(torch.equal(logits, again.logits(images)), "be a function of the expert and the seed", "derive every draw")
    kept = (one.classes, one.outputs, one.image_shape) == (expert.classes, expert.outputs, expert.image_shape)
    must(kept, "keep the expert's classes, outputs and images", "use attrs.evolve(expert, module=...)")
    must(bool(logits.isfinite().all()), "return finite logits", "avoid divisions by 0")
    must(torch.allclose(logits, alone, atol=1e-4), "treat each image by itself", "use constants of the expert only")
    remedy = "add the same number to all of them, or multiply them by a positive one"
    must(order, "keep the order of the expert's own classes", remedy)
    _require_unchanged(calibration, expert, before, training=False)


def check_baseline(baseline: Baseline, image_shape: tuple[int, int, int] = (1, 8, 8)) -> None:
    """Check that a baseline is a component, scores every class for every image, and restores the experts.

    The stream has two experts, with the classes 1 and 4, and 0 and 4; class 2 has no expert. Position i of an expert in
    the stream is given as the task label of an image if the baseline needs it.

    >>> from exml.baselines import EnsembleAverage
    >>> from exml.testing import check_baseline
    >>> check_baseline(EnsembleAverage())
    """
    check_component(baseline, "baseline")
    must = requirement(baseline)
    one = tiny_expert(image_shape)
    other = attrs.evolve(tiny_expert(image_shape), classes=(0, 4))
    other.module.eval()
    states = [{name: tensor.clone() for name, tensor in e.module.state_dict().items()} for e in (one, other)]
    images = torch.rand(6, *image_shape, generator=torch.Generator().manual_seed(0))
    tasks = torch.arange(6) % 2
    predict = baseline(ExpertStream.from_experts([one, other]), 6)
    scores, remedy = predict(images, tasks), "return (batch, classes), with -inf for other classes"
    must(is_a(scores, Tensor) and scores.shape == (6, 6), "score every class for every image", remedy, found(scores))
    alone = torch.cat([predict(images[i : i + 1], tasks[i : i + 1]) for i in range(6)])
    must(not bool(scores.isnan().any()), "return no NaN", "give -inf to classes without an expert")
    must(
        bool(scores.isfinite().any(1).all()), "score at least one class of each image", "leave out no expert's classes"
    )
    must(torch.allclose(scores, alone, atol=1e-4), "treat each image by itself", "reduce over experts and classes only")
    for expert, state, training in zip((one, other), states, (True, False), strict=True):
        _require_unchanged(baseline, expert, state, training)


def _require_unchanged(
    component: Generator | Calibration | Baseline, expert: Expert, before: State, training: bool = True
) -> None:
    must, parts = requirement(component), list(expert.module.modules())
    same = all(torch.equal(tensor, before[name]) for name, tensor in expert.module.state_dict().items())
    must(same, "not change the expert", "run it inside exml.engine.frozen")
    free = all(weight.requires_grad for weight in expert.module.parameters())
    free = free and all(part.training == training for part in parts)
    must(free, "restore the expert's mode and gradient flags", "run it inside exml.engine.frozen")
    hooked = any(vars(part)["_forward_pre_hooks"] or vars(part)["_forward_hooks"] for part in parts)
    must(not hooked, "leave no hook on the expert", "remove it in a finally block")


def check_buffer(policy: BufferPolicy, experiences: int = 4) -> None:
    """Check that a policy is a component and keeps given samples, each at most once, the same for the same generator.

    The policy must be large enough for a stream of ``experiences``.

    >>> from exml.testing import check_buffer
    >>> from exml.buffers import Cumulative
    >>> check_buffer(Cumulative(12))
    """
    check_component(policy, "buffer")
    must = requirement(policy)
    memory = None
    for experience in range(1, experiences + 1):
        share = policy.share(experience)
        remedy = "return an integer of at least 1 from share, such as self.size // experience"
        must(is_a(share, int) and share >= 1, "request at least one new sample per experience", remedy, repr(share))
        values = experience + torch.arange(share) / (2 * share)  # each identifies an image
        new = Samples.of(values.view(-1, 1, 1, 1), torch.arange(share) % 2 + 2 * experience, experience=experience)
        given = _union(memory, new)
        kept = policy(memory, new, torch.Generator().manual_seed(experience))
        must(is_a(kept, Samples), "return Samples", "index memory and new, such as new[rows]", described(kept))
        now = _union(memory, new).state()
        same = all(torch.equal(column, now[name]) for name, column in given.state().items())
        must(same, "not change memory or new in place", "return rows of them, such as new[rows]")
        again = policy(memory, new, torch.Generator().manual_seed(experience))
        same = torch.equal(kept.images, again.images)
        must(same, "keep the same samples for the same generator", "draw from the given one only")
        must(len(kept) > 0, "keep at least one sample", "return rows of memory and new, such as new[rows]")
        size = getattr(policy, "size", None)
        remedy = "subsample memory, or name a field that is no limit otherwise"
        fits = not isinstance(size, int) or len(kept) <= size
        must(fits, f"keep at most its size, {size} samples", remedy, len(kept))
        names = kept.images.flatten()
        must(len(names.unique()) == len(names), "keep no sample twice", "select without replacement")
        position = (names[:, None] == given.images.flatten()[None]).float().argmax(1)
        columns = ((given.labels, kept.labels), (given.experiences, kept.experiences))
        same = all(torch.equal(before[position], after) for before, after in columns)
        same = same and bool(torch.isin(names, given.images).all())
        must(same, "keep samples unchanged", "select rows of memory and new")
        memory = kept


def _union(memory: Samples | None, new: Samples) -> Samples:
    """A copy of all samples."""
    return Samples.concat([new] if memory is None else [memory, new])
