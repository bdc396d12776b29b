"""Checks before an experience starts, and before the student learns from generated samples."""

from __future__ import annotations

import copy
import math
import warnings
from itertools import chain
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from exml.core.activation import record_activations
from exml.core.admission import check_weights, guarded
from exml.core.components import walk
from exml.core.errors import ExmlWarning, ExpertError, NonFiniteError, SettingError, ShapeError
from exml.core.execution import Execution
from exml.core.expert import Expert
from exml.core.memory import require_memory
from exml.core.outputs import described, is_a, logits_of
from exml.core.registry import misfit
from exml.core.rng import global_seed, make_generator
from exml.core.samples import Samples
from exml.core.shapes import Scalar
from exml.core.targets import Target, TeacherLogits
from exml.engine import DistillationContext, Teachers, distill, frozen
from exml.learning.strategy import Strategy
from exml.models import Normalized
from exml.protocols import BufferPolicy

_MEAN = "return a tensor without dimensions, the mean over the batch"
_UNSTABLE = "lower the learning rate, clip the gradient (clip_norm), or start from a finite student"


def device_of(module: nn.Module) -> torch.device:
    """The device of a module; the CPU if it has no tensors."""
    return next((tensor.device for tensor in chain(module.parameters(), module.buffers())), torch.device("cpu"))


@torch.no_grad()
def check_student(student: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Run the student once on images of a shape; return its number of outputs."""
    check_weights(student, "the student", SettingError, _UNSTABLE)
    others = [name for name, value in student.state_dict().items() if not isinstance(value, torch.Tensor)]
    if others:
        expected = "a student whose state consists of tensors, which checkpoints can store"
        raise SettingError(expected=expected, got=", ".join(others), remedy="remove its get_extra_state")
    expected = f"a student that takes images {image_shape}, as the experts do"
    remedy = "give the student the image shape of the experts"
    with guarded(student, expected, remedy, ShapeError), frozen(student):
        logits = logits_of(student(torch.zeros(2, *image_shape, device=device_of(student))))
    if logits.ndim != 2 or len(logits) != 2:
        expected = "a student that returns logits (batch, classes)"
        raise ShapeError(expected=expected, got=str(tuple(logits.shape)), remedy="give the student one flat classifier")
    return logits.shape[1]


def check_memory(student: nn.Module, memory: Samples) -> None:
    """Raise a ShapeError unless the student takes the images of a buffer and has an output for each of its labels."""
    with guarded(student, "images in the buffer that the student takes", "restore the buffer", ShapeError):
        with frozen(student):
            classes = logits_of(student(memory.pixels(slice(0, 2)))).shape[1]
        if not 0 <= int(memory.labels.min()) <= int(memory.labels.max()) < classes:
            raise IndexError(f"labels from {int(memory.labels.min())} to {int(memory.labels.max())}")


def check_apart(student: nn.Module, expert: Expert) -> None:
    """Raise an ExpertError if training the student would change the expert: if they share a parameter or a buffer."""

    def storages(module: nn.Module) -> dict[int, str]:
        named = chain(module.named_parameters(), module.named_buffers())
        return {tensor.untyped_storage().data_ptr(): name for name, tensor in named if tensor.numel()}

    ours, theirs = storages(student), storages(expert.module)
    shared = [name for place, name in ours.items() if place in theirs]
    if shared:
        expected = f"a student that shares no weights with expert {expert.name!r}"
        got = f"{len(shared)} shared tensors, such as {shared[0]}"
        raise ExpertError(expected=expected, got=got, remedy="give the student copies: copy.deepcopy(module)")


def rehearse_training(
    student: nn.Module, expert: Expert, strategy: Strategy, classes: int, execution: Execution
) -> None:
    """Train a copy of the student for one step on a mini-batch of noise, so that a fault appears before any work."""
    if not any(parameter.requires_grad for parameter in student.parameters()):
        expected = "a student with parameters to train"
        raise SettingError(expected=expected, got="none that requires a gradient", remedy="call requires_grad_() on it")
    with guarded(student, "a student that can be copied", "make it work with copy.deepcopy", SettingError):
        trial = copy.deepcopy(student)
    draws = make_generator("cpu", 0, "rehearsal")
    images = torch.rand(8, *expert.image_shape, generator=draws).to(expert.device)
    labels = expert.class_ids[torch.arange(8) % len(expert.classes)].to(expert.device)
    plain = {"views": 0, "ridge": None, "stored": False, "sampling": "uniform"}
    training = attrs.evolve(strategy.training, iterations=1, **plain)
    values: list[Scalar] = []
    context = DistillationContext(
        seed=0,
        after_step=lambda _done, value: values.append(value),
        execution=attrs.evolve(execution, compile="never"),
    )
    expected = f"a student that trains on {training.batch_size} images {expert.image_shape}, as in one step"
    remedy = "make its forward and backward pass work in training mode, or change Training.batch_size"
    with guarded(student, expected, remedy, SettingError), global_seed(0, "rehearsal"):
        distill(
            trial,
            Teachers(None, expert, strategy.normalizer, strategy.combiner, classes),
            Samples.of(images, labels, task=expert.task, experience=1),
            loss=strategy.loss,
            training=training,
            augmentation=strategy.augmentation,
            context=context,
        )
    gradients = {f"the gradient of {name}": value.grad for name, value in trial.named_parameters()}
    for name, value in {"the loss": values[0], **gradients}.items():
        if value is not None and not bool(value.isfinite().all()):
            raise NonFiniteError(expected=expected, got=f"NaN or infinity in {name}", remedy=_UNSTABLE)


def warn_of_scarcity(expert: Expert, share: int) -> None:
    """Warn that some classes of the expert will have no image."""
    expected = f"an image for each of the {len(expert.classes)} classes of expert {expert.name!r}"
    got = f"{share} images, so that {len(expert.classes) - share} classes have none"
    message = f"expected {expected}, got {got}; remedy: enlarge the buffer, or its per_experience"
    warnings.warn(message, ExmlWarning, stacklevel=2)


def require_room(strategy: Strategy, image_shape: tuple[int, int, int], share: int) -> None:
    """Raise a SettingError if ``share`` images and a mini-batch of the student need more memory than there is."""
    stored = any(hasattr(part, "uses_real_data") for _, part in walk(strategy.generator))  # sources may give uint8
    images = share * (1 if stored else 4) + strategy.training.batch_size * 4
    remedy = "use a smaller buffer, or a smaller batch_size in training"
    require_memory(images * math.prod(image_shape), f"{share} images {image_shape} and a mini-batch", remedy)


def rehearse(student: nn.Module, expert: Expert, strategy: Strategy, classes: int) -> None:
    """Compute prior, target and loss of two black images, so that parts that do not fit fail before any work."""
    if any(getattr(part, "uses_priors", False) for _, part in walk(strategy.generator)):
        expert.check_gradient()
    images = torch.zeros(2, *expert.image_shape, device=expert.device)
    labels = expert.class_ids[[0, -1]].to(expert.device)
    batch = Samples.of(images, labels, task=expert.task, experience=1)

    def combine(previous: TeacherLogits, present: TeacherLogits, samples: Samples, /) -> Target:
        target = strategy.combiner(previous, present, samples)
        _require(is_a(target, Target), "a Target", strategy.combiner, target, "return exml.protocols.Target(...)")
        return target

    with torch.no_grad(), frozen(expert.module), frozen(student):
        if strategy.prior is not None:
            with record_activations(expert.module) as activations:
                expert.logits(images)
            for _, part in reversed(tuple(walk(strategy.prior))):  # inner ones first, to name the one at fault
                if misfit(part, "prior") is None:
                    penalty = part(expert.normalize(images), activations)
                    fits = is_a(penalty, Tensor) and penalty.shape == ()
                    _require(fits, "a 0-dimensional penalty", part, penalty, _MEAN)
        target = Teachers(None, expert, strategy.normalizer, combine, classes).target(batch)
        for name in ("logits", "defined", "candidates"):
            found = getattr(target, name)
            remedy = "make the combiner, and the normalizer before it, keep (batch, classes)"
            fits = is_a(found, Tensor) and found.shape == (2, classes)
            _require(fits, f"a target with {name} {(2, classes)}", strategy.combiner, found, remedy)
        value = strategy.loss(logits_of(student(images)), target, labels)
    _require(is_a(value, Tensor) and value.shape == (), "a 0-dimensional loss", strategy.loss, value, _MEAN)
    if not bool(value.isfinite()):
        expected = f"a finite loss of two black images from {type(strategy.loss).__name__}"
        remedy = "check the normalizer, the combiner and the loss for divisions by 0"
        raise NonFiniteError(expected=expected, got=str(value.item()), remedy=remedy)


def share_of(policy: BufferPolicy, experience: int) -> int:
    """How many samples a policy requests; raises a SettingError unless that is an integer of at least 1."""
    share = policy.share(experience)
    if not is_a(share, int) or share < 1:
        expected = f"an integer of at least 1 from {type(policy).__name__}.share({experience})"
        raise SettingError(expected=expected, got=repr(share), remedy="return the number of new samples, rounded by //")
    return share


def updated(policy: BufferPolicy, memory: Samples | None, new: Samples, draws: torch.Generator) -> Samples:
    """The buffer that a policy makes; raises a ShapeError unless it is Samples, at least one."""
    kept = policy(memory, new, draws)
    is_samples = is_a(kept, Samples)
    got = "no sample" if is_samples and not len(kept) else kept
    _require(is_samples and len(kept) > 0, "Samples, at least one,", policy, got, "return rows of memory and new")
    return kept


def _require(fits: bool, expected: str, part: object, got: object, remedy: str) -> None:
    """Raise a ShapeError that names the part of a strategy and what it returned, unless that fits."""
    if not fits:
        found = got if isinstance(got, str) else described(got)
        raise ShapeError(expected=f"{expected} from {type(part).__name__}", got=found, remedy=remedy)


def copy_expert(expert: Expert, student: nn.Module, classes: int) -> None:
    """Copy the expert's weights into the student; architecture, normalization and outputs must be equal."""
    target: nn.Module = student.module if isinstance(student, Normalized) else student
    ours, theirs = (
        {name: getattr(tensor, "shape", None) for name, tensor in module.state_dict().items()}
        for module in (target, expert.module)
    )
    probe = torch.rand(4, *expert.image_shape, generator=torch.Generator().manual_seed(0)).to(expert.device)
    fits = ours == theirs and expert.outputs == tuple(range(classes))
    if fits:
        target.load_state_dict(expert.module.state_dict())
        with torch.no_grad(), frozen(expert.module), frozen(student):
            fits = torch.allclose(student(probe), expert.logits(probe), rtol=1e-4, atol=1e-5)
    if not fits:
        expected = f"a first expert ({expert.name!r}) of the student's architecture, normalization and outputs"
        got = f"{type(expert.module).__name__} with outputs {expert.outputs}, mean {expert.mean}, std {expert.std}"
        remedy = "wrap the student in exml.models.Normalized with the expert's mean and std, or do not start from it"
        raise ExpertError(expected=expected, got=got, remedy=remedy)


def check_finite(module: nn.Module, name: str) -> None:
    """Raise :class:`exml.core.errors.NonFiniteError` if a weight is NaN or infinite."""
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NonFiniteError(
                expected=f"finite weights in {name}", got=f"NaN or infinity in {key}", remedy=_UNSTABLE
            )


def check_samples(samples: Any, expert: Expert, share: int, generator: object) -> None:
    """Check the samples of a generator before the student learns from them."""
    name = type(generator).__name__
    _require(is_a(samples, Samples), "Samples", generator, samples, "return exml.generators.labeled(...)")
    stored = samples.images.dtype in (torch.float32, torch.uint8)
    _require(stored, "float32 images", generator, samples.images, "convert them with .float()")
    if samples.images.shape != (share, *expert.image_shape):
        expected = f"images {(share, *expert.image_shape)} from {name}"
        remedy = "return the requested number of images, of the expert's image shape"
        raise ShapeError(expected=expected, got=str(tuple(samples.images.shape)), remedy=remedy)
    # Soft targets drawn over all outputs, as in the paper's code, may name a class that was never trained.
    known = expert.classes if samples.targets is None else tuple(unit for unit in expert.outputs if unit is not None)
    if not bool(torch.isin(samples.labels, torch.tensor(known, device=samples.labels.device)).all()):
        expected = f"labels among the expert's classes {known} from {name}"
        remedy = "return global class ids that the expert knows"
        raise ShapeError(expected=expected, got=str(samples.labels.unique().tolist()), remedy=remedy)
    if not bool(samples.images.isfinite().all()):
        remedy = "lower its learning rate or clamp the images"
        raise NonFiniteError(expected=f"finite images from {name}", got="NaN or infinity", remedy=remedy)
