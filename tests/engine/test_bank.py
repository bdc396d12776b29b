"""Distillation against its plain twin, and from a bank of views: the teachers run once on each."""

import copy

import attrs
import pytest
import torch
from torch import nn

import exml
from exml.augmentation import Augmentation
from exml.combiners import SideBySide
from exml.core.errors import SettingError
from exml.engine import PreviousStudent, Teachers, Training, store_logits
from exml.experts import Expert
from exml.models import ConvNet, SlimResNet18
from exml.normalizers import RawLogits
from tests.engine.helpers import distilled, plainly_distilled, teachers_of, weights

SHAPE = (1, 8, 8)


class Spy(nn.Module):
    """A teacher that cannot be traced, and keeps the images that it receives."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.net, self.images = ConvNet(1, 10, 8), []

    def forward(self, images):
        self.images.append(images)
        return self.net(images) if len(images) else images


def run(*, views, augmentation, iterations=6, start=0, student=None, optimizer=None):
    teachers = Spy(1), Spy(2)
    torch.manual_seed(0)
    memory = exml.Samples.of(torch.rand(12, *SHAPE), torch.arange(12) % 10)
    student = student or ConvNet(1, 10, 8)
    training = Training(iterations=iterations, batch_size=4, learning_rate=0.05, views=views)
    teachers[1].eval()
    both = teachers_of(teachers[1], teachers[0], SHAPE)
    distilled(student, both, memory, training, augmentation=augmentation, start=start, optimizer=optimizer)
    # Lowering also runs the networks on two images.
    return student, [[batch for batch in teacher.images if len(batch) > 2] for teacher in teachers], memory


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_steps_are_those_of_the_plain_twin(optimizer):
    torch.manual_seed(0)
    student, previous, expert = (SlimResNet18(width=4).double() for _ in range(3))
    memory = exml.Samples.of(torch.rand(12, 3, 16, 16).double(), torch.arange(12) % 10)
    training = Training(iterations=5, batch_size=4, learning_rate=0.003, optimizer=optimizer, schedule="cosine")
    given = teachers_of(previous, expert, (3, 16, 16)), memory, training
    settings = {"augmentation": Augmentation(shift=2, rotation=9.0), "seed": 3}
    wanted = weights(plainly_distilled(copy.deepcopy(student), *given, **settings))
    assert not torch.allclose(weights(student), wanted, atol=1e-3)
    torch.testing.assert_close(weights(distilled(student, *given, **settings)), wanted, rtol=0, atol=1e-6)


def test_one_view_without_augmentation_is_the_fresh_batch():
    torch.testing.assert_close(
        weights(run(views=1, augmentation=None)[0]), weights(run(views=0, augmentation=None)[0]), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("views", [1, 3])
def test_each_teacher_runs_once_on_each_view_and_both_see_the_same(views):
    _, seen, memory = run(views=views, augmentation=Augmentation(shift=2))
    assert sum(map(len, seen[0])) == sum(map(len, seen[1])) == views * len(memory)
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one, other)
    first = torch.cat(seen[0])[: len(memory)]
    assert not torch.equal(first, memory.images)
    assert views == 1 or not torch.equal(first, torch.cat(seen[0])[len(memory) : 2 * len(memory)])


def test_a_resumed_run_fills_the_same_bank():
    whole = run(views=2, augmentation=Augmentation(shift=2))[0]
    half = run(views=2, augmentation=Augmentation(shift=2), iterations=3)[0]
    rest = run(views=2, augmentation=Augmentation(shift=2), start=3, student=half)[0]
    assert torch.equal(weights(rest), weights(whole))


def test_views_below_nothing_are_refused():
    with pytest.raises(SettingError, match="views"):
        Training(iterations=1, batch_size=1, learning_rate=0.1, views=-1)


class Brightness(nn.Module):
    """Gives an image of brightness c / 10 the class c."""

    def __init__(self):
        super().__init__()
        self.classes = nn.Parameter(torch.arange(10.0))

    def forward(self, images):
        return -((10 * images.mean((1, 2, 3))[:, None] - self.classes) ** 2)


class Witness(nn.Module):
    """A student that remembers the images of every mini-batch."""

    def __init__(self):
        super().__init__()
        self.net, self.seen = ConvNet(1, 10, 8), []

    def forward(self, images):
        self.seen.append((10 * images.mean((1, 2, 3))).round().long())
        return self.net(images)


def drawn(counts, *, steps=200, start=0, **settings):
    """The number of draws of each class, where the expert assigns ``counts`` images to its classes, 5 and more."""
    images = (torch.arange(5, 5 + len(counts)) / 10).repeat_interleave(torch.tensor(counts))[:, None, None, None]
    # The labels are wrong on purpose: the targets decide.
    memory = exml.Samples.of(images.expand(-1, *SHAPE).clone(), torch.arange(len(images)) % 10)
    teachers = attrs.evolve(
        teachers_of(ConvNet(1, 10, 8), Brightness(), SHAPE),
        previous=None,
        combiner=SideBySide(),
        normalizer=RawLogits(),
    )
    if settings.get("stored"):
        memory = store_logits(memory, teachers)
    student = Witness()
    training = Training(iterations=steps, batch_size=50, learning_rate=1e-4, **settings)
    distilled(student, teachers, memory, training, start=start)
    return torch.stack([batch.bincount(minlength=10) for batch in student.seen if len(batch) == 50])


def test_a_margin_separates_the_classes_of_the_two_teachers():
    """The previous student knows the classes 0 to 4, the expert those from 3 on; row i has the label i."""
    mask = torch.arange(10)[None]
    previous = PreviousStudent(ConvNet(1, 10, 8), mask[0] < 5, torch.ones(10, dtype=torch.bool))
    expert = Expert(ConvNet(1, 10, 8), range(3, 10), SHAPE, outputs=range(10))
    teachers = Teachers(previous, expert, RawLogits(), SideBySide(), 10)
    batch = exml.Samples.of(torch.rand(10, *SHAPE), torch.arange(10))
    target, lowered = (attrs.evolve(teachers, margin=margin).target(batch) for margin in (0.0, 1.5))
    only_old, only_new = mask < 3, mask >= 5
    foreign = (only_old.T & only_new) | (only_new.T & only_old)
    torch.testing.assert_close(target.logits - lowered.logits, 1.5 * foreign)
    first = attrs.evolve(teachers, previous=None, margin=1.5).target(batch)
    assert torch.equal(first.logits, attrs.evolve(teachers, previous=None).target(batch).logits)


@pytest.mark.parametrize("bank", [{"views": 1}, {"views": 2}, {"stored": True}])
def test_balanced_sampling_draws_every_class_of_the_targets_equally_often(bank):
    counts = [100, 60, 25, 15]
    uniform, balanced = drawn(counts, **bank).sum(0), drawn(counts, **bank, sampling="class-balanced").sum(0)
    torch.testing.assert_close(uniform[5:9] / 10_000, torch.tensor(counts) / 200, atol=0.02, rtol=0)
    torch.testing.assert_close(balanced[5:9] / 10_000, torch.full((4,), 0.25), atol=0.02, rtol=0)


def test_balanced_sampling_does_not_repeat_the_images_of_a_rare_class():
    """One image of a thousand counts as fifty would: one of 51 draws, not one of two."""
    shares = drawn([999, 1], stored=True, sampling="class-balanced").sum(0) / 10_000
    assert float(shares[6]) == pytest.approx(1 / 51, abs=0.005)


def test_a_resumed_run_draws_the_same_balanced_batches():
    settings = {"stored": True, "sampling": "class-balanced"}
    whole = drawn([30, 10], steps=6, **settings)
    assert torch.equal(drawn([30, 10], steps=6, start=3, **settings), whole[3:])


def test_balanced_sampling_requires_targets_before_the_first_step():
    with pytest.raises(SettingError, match=r"Training.views or Training.stored"):
        Training(iterations=1, batch_size=1, learning_rate=0.1, sampling="class-balanced")
    with pytest.raises(SettingError, match="class-balanced"):
        Training(iterations=1, batch_size=1, learning_rate=0.1, sampling="balanced")
