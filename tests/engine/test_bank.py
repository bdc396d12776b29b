"""Distillation against its plain twin, and from a bank of views: the teachers run once on each."""

import copy

import pytest
import torch
from torch import nn

import exml
from exml.augmentation import Augmentation
from exml.core.errors import SettingError
from exml.engine import Training
from exml.models import ConvNet, SlimResNet18
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
