"""The hot loops with the settings that tests share, and their plain twins: the same mathematics without the engine."""

import attrs
import torch
from torch import nn

from exml.combiners import ByClass
from exml.core.rng import derive_seed
from exml.engine import DistillationContext, Goal, PreviousStudent, Teachers, distill, invert
from exml.experts import Expert
from exml.generators import ModelInversion
from exml.losses import Distillation
from exml.normalizers import CenterLogits
from exml.priors import record_activations
from exml.protocols import GenerationContext

LOSS = Distillation()
CONTEXT = {"prior", "augmentation", "journal", "execution", "ranks"}


def split(changes):
    """The settings of an inversion, and its context."""
    settings = {name: value for name, value in changes.items() if name not in CONTEXT}
    context = {name: value for name, value in changes.items() if name in CONTEXT}
    return ModelInversion(**{"iterations": 6, **settings}), GenerationContext(**context)


def inverted(module, images, objective, *, finished=None, seed=3, **changes):
    settings, context = split(changes)
    return invert(module, images, settings, Goal(objective, finished), seed=seed, context=context)


def plainly_inverted(module, images, objective, *, prior, augmentation, seed=3, iterations=6, learning_rate=0.1):
    images, draws = images.clone().requires_grad_(), torch.Generator()
    adam = torch.optim.Adam([images], learning_rate)
    module.eval()
    for step in range(iterations):
        draws.manual_seed(derive_seed(seed, step))
        with record_activations(module) as activations:
            logits = module(augmentation(images, draws))
            loss = objective(logits, torch.arange(len(images))).sum() + len(images) * prior(images, activations)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return images.detach()


def teachers_of(previous, expert, shape, classes=10, **changes):
    """The previous student knows the first half of the classes, the expert the others; both have all units."""
    known = (torch.arange(classes) < classes // 2).to(next(previous.parameters()).device)
    before = PreviousStudent(previous, known, torch.ones_like(known))
    new = Expert(expert, range(classes // 2, classes), shape, outputs=range(classes))
    return attrs.evolve(Teachers(before, new, CenterLogits(), ByClass(), classes), **changes)


def distilled(student, teachers, memory, training, *, loss=LOSS, augmentation=None, seed=0, **live):
    context = DistillationContext(seed, **live)
    distill(student, teachers, memory, loss=loss, training=training, augmentation=augmentation, context=context)
    return student


def plainly_distilled(student, teachers, memory, training, *, augmentation, loss=LOSS, seed=0):
    optimizer, draws = training.make_optimizer(student), torch.Generator()
    teachers.previous.module.eval()
    teachers.expert.module.eval()
    student.train()
    for step in range(training.iterations):
        draws.manual_seed(derive_seed(seed, step))
        batch = memory[torch.randint(len(memory), (training.batch_size,), generator=draws)]
        batch = attrs.evolve(batch, images=augmentation(batch.images, draws))
        with torch.no_grad():
            target = teachers.target(batch)
        training.set_learning_rate(optimizer, step)
        optimizer.zero_grad()
        loss(student(batch.images), target, batch.labels).backward()
        optimizer.step()
    return student


def weights(module):
    return nn.utils.parameters_to_vector(module.parameters()).detach().cpu()
