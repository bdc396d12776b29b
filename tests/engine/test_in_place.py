"""Modules that write to their input: results are those of the same module out of place, and images stay as they are."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import exml
from exml.engine import lowered, recorded
from exml.generators import ModelInversion
from exml.priors import BatchNormStatistics, L2Norm, Sum
from exml.protocols import GenerationContext
from exml.runs.evaluation import student_predictor
from tests.norms import network, trained

SHAPE = (1, 6, 6)


def row(images):
    images[:, :, 0] *= 2
    return images


def row_of_copy(images):
    return torch.cat((images[:, :, :1] * 2, images[:, :, 1:]), 2)


def flat(images):
    images.view(len(images), -1).sub_(0.5)
    return images


WAYS = {
    "methods": (lambda images: images.sub_(0.5).div_(0.25), lambda images: (images - 0.5) / 0.25),
    "function": (lambda images: functional.relu(images, inplace=True), functional.relu),
    "item": (row, row_of_copy),
    "view": (flat, lambda images: images - 0.5),
    "without autograd": (lambda images: images.data.sub_(0.5) * 0 + images, lambda images: images - 0.5),
}


class First(nn.Module):
    def __init__(self, way, outputs):
        super().__init__()
        torch.manual_seed(0)
        self.way, self.rest = way, trained(network(nn.BatchNorm2d(4), 1, outputs))

    def forward(self, images):
        return self.rest(self.way(images))


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("prior", [None, Sum((L2Norm(0.1), BatchNormStatistics(1.0)))], ids=["plain", "recorded"])
def test_inversion(name, prior):
    made = [
        ModelInversion(iterations=4)(exml.Expert(First(way, 2).eval(), (0, 1), SHAPE), 6, 0, GenerationContext(prior))
        for way in WAYS[name]
    ]
    torch.testing.assert_close(made[0].images, made[1].images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"views": 2, "ridge": 0.1}], ids=str)
@pytest.mark.parametrize("name", WAYS)
def test_distillation(name, settings):
    """Two experiences: in the second, the previous student is a teacher, and sees the images before the new one."""

    def learned(way):
        experts = [exml.Expert(First(way, 2).eval(), classes, SHAPE) for classes in ((0, 1), (2, 3))]
        strategy = (
            exml.recipes.noise(exml.ExpertProfile.from_experts(experts))
            .training(exml.Training(iterations=5, batch_size=8, learning_rate=0.01, **settings))
            .buffer(exml.buffers.Cumulative(16))
            .build()
        )
        learner = exml.Learner(strategy, First(way, 4))
        for expert in experts:
            learner.learn(expert)
        pixels = learner.memory.images.clone()
        scores = student_predictor(learner.student)(learner.memory.images, None)
        assert torch.equal(learner.memory.images, pixels)
        return pixels, scores, *learner.student.state_dict().values()

    for ours, theirs in zip(*map(learned, WAYS[name]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("name", WAYS)
def test_the_images_stay_as_they_are(name, record):
    images = torch.rand(4, *SHAPE)
    before, module = images.clone(), First(WAYS[name][0], 2).eval()
    with lowered(module, images[:2]) as fast, recorded(module, images[:2], record=record) as network, torch.no_grad():
        torch.testing.assert_close(fast(images), network(images)[0])
    assert torch.equal(images, before)
