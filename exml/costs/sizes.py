"""What can be counted of a strategy without a clock: bytes, and floating-point operations."""

from __future__ import annotations

from functools import partial

import attrs
import torch
from torch import nn

from exml.core.activation import BATCH_NORM
from exml.core.execution import EAGER
from exml.core.expert import Expert
from exml.core.rng import global_seed
from exml.costs._tally import Tally, tally
from exml.costs._trials import Trials
from exml.costs.leaves import leaves, shortened
from exml.costs.rates import Line
from exml.engine import lowered
from exml.learning.strategy import Strategy
from exml.protocols import Generator

_FEW, _MANY = 4, 8


@attrs.frozen
class GenerationSizes:
    """One generator.

    Args:
        memory: bytes that a call holds at most, for n images gone over together: images, Adam's moments, activations.
        step_flops: floating-point operations of one iteration for each image; 0 for a generator that does not iterate.
        call_flops: those of a call for each image, beside its iterations.
    """

    memory: Line
    step_flops: float = 0.0
    call_flops: float = 0.0


@attrs.frozen
class Sizes:
    """What is counted of models and images; :func:`count` does it.

    Args:
        image: bytes of an image.
        sample: bytes of an image with its labels and soft targets in the buffer.
        classes: the student's outputs.
        student: bytes of the student, buffers too.
        tensors: of which it consists.
        parameters: bytes of what is trained of it.
        norms: its batch-norm layers, which need statistics of the whole mini-batch.
        norm_channels: of all of them together.
        expert: bytes of the expert.
        expert_channels: of its batch-norm layers with running statistics.
        generation: one for each of the :func:`leaves` of the strategy's generator.
        activations: bytes of a distillation step for each sample of its mini-batch.
        asked: bytes of asking the teachers, for each image.
        expert_flops: floating-point operations of asking the expert about one image.
        student_flops: those of asking the student.
        training_flops: those of the student's forward and backward pass over one image.
    """

    image: int
    sample: int
    classes: int
    student: int
    tensors: int
    parameters: int
    norms: int
    norm_channels: int
    expert: int
    expert_channels: int
    generation: tuple[GenerationSizes, ...] = attrs.field(converter=tuple)
    activations: float = 0.0
    asked: float = 0.0
    expert_flops: float = 0.0
    student_flops: float = 0.0
    training_flops: float = 0.0

    def view_flops(self, experience: int) -> float:
        """Floating-point operations of asking the teachers of an experience (from 1) about one image."""
        return self.expert_flops + (self.student_flops if experience > 1 else 0.0)


def count(strategy: Strategy, expert: Expert, student: nn.Module, /) -> Sizes:
    """Count by running the loops of a strategy on a handful of images, on the CPU; changes neither model.

    Floating-point operations are those of :class:`torch.utils.flop_counter.FlopCounterMode`: convolutions and matrix
    products, a multiplication and an addition being two; all else is little beside them.

    Args:
        strategy: what will be done.
        expert: one like all experts of the stream.
        student: that will learn from them.

    >>> import exml
    >>> expert = Expert(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), (0, 1), (1, 8, 8))
    >>> strategy = exml.recipes.procedural(exml.ExpertProfile.from_experts([expert])).build()
    >>> sizes = count(strategy, expert, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    >>> sizes.image, sizes.parameters, sizes.expert_flops == 2 * 64 * 2, sizes.student_flops == 2 * 64 * 10
    (256, 2600, True, True)
    """
    with global_seed(0, "costs"):
        return sizes_of(Trials.of(strategy, expert, student, "cpu"))


def sizes_of(trials: Trials) -> Sizes:
    """The same, of copies that are at hand."""
    trials = attrs.evolve(trials, execution=EAGER)
    expert, student = trials.expert, trials.student
    parts = leaves(trials.strategy.generator)
    images = trials.samples(_FEW).images
    made = [trials.generate(shortened(leaf, 1), 2).targets is not None for leaf in parts]
    norms = [part for part in student.modules() if isinstance(part, BATCH_NORM)]
    known = [part for part in expert.module.modules() if isinstance(part, BATCH_NORM) and part.running_mean is not None]
    memory = trials.samples(_MANY)
    views = min(trials.strategy.training.views, 1)

    def distil(batch: int) -> None:
        trials.distil(memory, 2, batch=batch, views=views, previous=True)

    def train() -> None:
        student.train()
        student(images).sum().backward()

    asked: list[tuple[Tally, Tally]] = []
    for module, probe in ((expert.module, expert.normalize(images)), (student, images)):
        with lowered(module, probe) as network, torch.no_grad():
            few, many = (tally(partial(network, probe.repeat(times, 1, 1, 1))) for times in (1, _MANY // _FEW))
            asked.append((few, many))
    peaks = [tally(partial(distil, batch)).peak for batch in (_FEW, _MANY)]
    return Sizes(
        image=images[0].nbytes,
        sample=images[0].nbytes + 3 * 8 + (4 * trials.classes if all(made) else 0),
        classes=trials.classes,
        student=_bytes(student),
        tensors=len(student.state_dict()),
        parameters=sum(p.nbytes for p in student.parameters() if p.requires_grad),
        norms=len(norms),
        norm_channels=sum(part.num_features for part in norms),
        expert=_bytes(expert.module),
        expert_channels=sum(part.num_features for part in known),
        generation=tuple(_generation(trials, leaf) for leaf in parts),
        activations=(peaks[1] - peaks[0]) / (_MANY - _FEW),
        asked=max(many.peak - few.peak for few, many in asked) / (_MANY - _FEW),
        expert_flops=asked[0][0].flops / _FEW,
        student_flops=asked[1][0].flops / _FEW,
        training_flops=tally(train).flops / _FEW,
    )


def _generation(trials: Trials, leaf: Generator) -> GenerationSizes:
    """Two steps make all that there is at a peak; a step is what two have more than one."""
    once, twice = shortened(leaf, 1), shortened(leaf, 2)
    few, many = (tally(lambda n=n: trials.generate(twice, n)) for n in (_FEW, _MANY))
    step = (few.flops - tally(lambda: trials.generate(once, _FEW)).flops) / _FEW if once != twice else 0.0
    steps = 2 if step else 0
    return GenerationSizes(
        Line.through(_FEW, few.peak, _MANY, many.peak), step, (many.flops - few.flops) / (_MANY - _FEW) - steps * step
    )


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())
