"""Conformance of generators, calibrations, baselines and buffer policies."""

from __future__ import annotations

import attrs
import torch
from torch import nn

from exml.core.expert import Expert
from exml.core.outputs import is_a
from exml.core.samples import Samples
from exml.core.shapes import State
from exml.experts import ExpertStream
from exml.protocols import Baseline, BufferPolicy, Calibration, Generator
from exml.testing.component import check_component, require_value, requirement


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
    one, two, other = (generator(expert, size, seed) for seed in (1, 1, 2))
    must(is_a(one, Samples), "return Samples", "return exml.generators.labeled(...)", type(one).__name__)
    must(len(one) == size, f"make the {size} samples asked of it", "return as many as size says", len(one))
    shape = tuple(one.images.shape[1:])
    must(shape == image_shape, f"make images of the expert's shape {image_shape}", "use expert.image_shape", shape)
    must(one.images.dtype == torch.float32, "make float32 images", "convert them with .float()", one.images.dtype)
    must(not one.images.requires_grad, "return images without a graph", "detach them")
    must(bool(one.images.isfinite().all()), "make finite images", "avoid divisions by 0")
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
    _require_unchanged(generator, expert, before)
    must(len(generator(expert, 1, 0)) == 1, "be able to make a single sample", "support size=1")


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
        one, again = (calibration(expert, 1) for _ in range(2))
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
    _require_unchanged(calibration, expert, before)


def check_baseline(baseline: Baseline, image_shape: tuple[int, int, int] = (1, 8, 8)) -> None:
    """Check that a baseline is a component, scores every class for every image, and restores the experts.

    The stream has two experts, with the classes 1 and 4, and 0 and 4; class 2 has no expert. Position i of an expert in
    the stream is given as the task label of an image if the baseline needs it.

    >>> from exml.baselines import EnsembleAverage
    >>> from exml.testing import check_baseline
    >>> check_baseline(EnsembleAverage())
    """
    require_value(baseline)
    must, why = requirement(baseline), "compare it with exml.protocols.Baseline"
    must(is_a(baseline, Baseline), "have the attributes and the call of a baseline", why)
    one = tiny_expert(image_shape)
    other = attrs.evolve(tiny_expert(image_shape), classes=(0, 4))
    states = [{name: tensor.clone() for name, tensor in e.module.state_dict().items()} for e in (one, other)]
    images = torch.rand(6, *image_shape, generator=torch.Generator().manual_seed(0))
    tasks = torch.arange(6) % 2
    predict = baseline(ExpertStream.from_experts([one, other]), 6)
    scores, alone = predict(images, tasks), torch.cat([predict(images[i : i + 1], tasks[i : i + 1]) for i in range(6)])
    shape = tuple(scores.shape)
    remedy = "return (batch, classes), with -inf for other classes"
    must(shape == (6, 6), "score every class for every image", remedy, shape)
    must(not bool(scores.isnan().any()), "return no NaN", "give -inf to classes without an expert")
    must(
        bool(scores.isfinite().any(1).all()), "score at least one class of each image", "leave out no expert's classes"
    )
    must(torch.allclose(scores, alone, atol=1e-4), "treat each image by itself", "reduce over experts and classes only")
    for expert, state in zip((one, other), states, strict=True):
        _require_unchanged(baseline, expert, state)


def _require_unchanged(component: Generator | Calibration | Baseline, expert: Expert, before: State) -> None:
    must, parts = requirement(component), list(expert.module.modules())
    same = all(torch.equal(tensor, before[name]) for name, tensor in expert.module.state_dict().items())
    must(same, "not change the expert", "run it inside exml.engine.frozen")
    free = expert.module.training and all(weight.requires_grad for weight in expert.module.parameters())
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
        must(share >= 1, "request at least one new sample per experience", "return 1 or more from share", share)
        values = experience + torch.arange(share) / (2 * share)  # each identifies an image
        new = Samples.of(values.view(-1, 1, 1, 1), torch.arange(share) % 2 + 2 * experience, experience=experience)
        kept = policy(memory, new, torch.Generator().manual_seed(experience))
        must(is_a(kept, Samples), "return Samples", "index memory and new, such as new[rows]", type(kept).__name__)
        again = policy(memory, new, torch.Generator().manual_seed(experience))
        same = torch.equal(kept.images, again.images)
        must(same, "keep the same samples for the same generator", "draw from the given one only")
        must(len(kept) > 0, "keep at least one sample", "raise BufferSizeError for a size that is too small")
        given = new if memory is None else Samples.concat([memory, new])
        names = kept.images.flatten()
        must(len(names.unique()) == len(names), "keep no sample twice", "select without replacement")
        position = (names[:, None] == given.images.flatten()[None]).float().argmax(1)
        columns = ((given.labels, kept.labels), (given.experiences, kept.experiences))
        same = all(torch.equal(before[position], after) for before, after in columns)
        same = same and bool(torch.isin(names, given.images).all())
        must(same, "keep samples unchanged", "select rows of memory and new")
        memory = kept
