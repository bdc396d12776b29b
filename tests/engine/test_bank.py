"""Distillation from a bank of views: the teachers are asked once about each."""

import pytest
import torch
from torch import nn

import exml
from exml.augmentation import Augmentation
from exml.combiners import ByClass
from exml.core.errors import SettingError
from exml.engine import PreviousStudent, Training, distill
from exml.losses import Distillation
from exml.models import ConvNet
from exml.normalizers import CenterLogits

SHAPE = (1, 8, 8)


class Asked(nn.Module):
    """A teacher that cannot be traced, and notes what it was asked about."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.net, self.images = ConvNet(1, 10, 8), []

    def forward(self, images):
        self.images.append(images)
        return self.net(images) if len(images) else images


def run(*, views, augmentation, iterations=6, start=0, student=None, optimizer_of=None):
    teachers = Asked(1), Asked(2)
    known = torch.arange(10) < 5
    torch.manual_seed(0)
    memory = exml.Samples.of(torch.rand(12, *SHAPE), torch.arange(12) % 10)
    student = student or ConvNet(1, 10, 8)
    training = Training(iterations=iterations, batch_size=4, learning_rate=0.05, views=views)
    optimizer = optimizer_of or training.make_optimizer(student)
    teachers[1].eval()
    distill(
        student,
        PreviousStudent(teachers[1], known, torch.ones_like(known)),
        exml.Expert(teachers[0], range(5, 10), SHAPE, outputs=range(10)),
        memory,
        normalizer=CenterLogits(),
        combiner=ByClass(),
        loss=Distillation(),
        training=training,
        augmentation=augmentation,
        optimizer=optimizer,
        seed=0,
        start=start,
        classes=10,
        after_step=lambda done, loss: None,
    )
    # The engine also asks about two images while it makes the networks ready.
    return student, [[batch for batch in teacher.images if len(batch) > 2] for teacher in teachers], memory


def weights(module):
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def test_one_view_without_augmentation_is_the_fresh_batch():
    torch.testing.assert_close(
        weights(run(views=1, augmentation=None)[0]), weights(run(views=0, augmentation=None)[0]), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("views", [1, 3])
def test_each_view_is_asked_about_once_and_both_teachers_see_the_same(views):
    _, asked, memory = run(views=views, augmentation=Augmentation(shift=2))
    assert sum(map(len, asked[0])) == sum(map(len, asked[1])) == views * len(memory)
    for one, other in zip(*asked, strict=True):
        assert torch.equal(one, other)
    first = torch.cat(asked[0])[: len(memory)]
    assert not torch.equal(first, memory.images)
    assert views == 1 or not torch.equal(first, torch.cat(asked[0])[len(memory) : 2 * len(memory)])


def test_a_run_that_goes_on_makes_the_same_bank():
    whole = run(views=2, augmentation=Augmentation(shift=2))[0]
    training = Training(iterations=6, batch_size=4, learning_rate=0.05, views=2)
    half = run(views=2, augmentation=Augmentation(shift=2), iterations=3)[0]
    rest = run(
        views=2, augmentation=Augmentation(shift=2), start=3, student=half, optimizer_of=training.make_optimizer(half)
    )[0]
    assert torch.equal(weights(rest), weights(whole))


def test_views_below_nothing_are_refused():
    with pytest.raises(SettingError, match="views"):
        Training(iterations=1, batch_size=1, learning_rate=0.1, views=-1)
