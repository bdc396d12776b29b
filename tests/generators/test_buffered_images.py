"""Warm starts from the images of earlier experiences."""

import pytest
import torch

import exml
from exml.combiners import ByClass
from exml.core.errors import ShapeError
from exml.generators import BufferedImages, GaussianNoise, ModelInversion, ProceduralImages
from exml.losses import Distillation
from exml.models import ConvNet
from exml.normalizers import CenterLogits
from exml.protocols import GenerationContext

SHAPE = (1, 8, 8)


def expert(classes, seed=0):
    torch.manual_seed(seed)
    return exml.Expert(ConvNet(1, 4, 8), classes, SHAPE, outputs=range(4), mean=(0.5,), std=(0.5,))


def memory(size=5):
    images = torch.arange(size).float().view(-1, 1, 1, 1).expand(-1, *SHAPE) / 10
    return exml.Samples.of(images, torch.zeros(size, dtype=torch.long))


def test_images_are_those_of_the_buffer_and_labels_those_of_the_expert():
    one = expert((2, 3))
    samples = BufferedImages()(one, 40, 0, GenerationContext(memory=memory(), experience=3))
    assert sorted(samples.images[:, 0, 0, 0].unique().tolist()) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert set(samples.labels.tolist()) <= {2, 3}
    assert samples.experiences.tolist() == [3] * 40
    again = BufferedImages()(one, 40, 0, GenerationContext(memory=memory(), experience=3))
    assert torch.equal(again.images, samples.images)
    assert not torch.equal(BufferedImages()(one, 40, 1, GenerationContext(memory=memory())).images, samples.images)


def test_without_a_buffer_the_first_generator_makes_them():
    one = expert((0, 1))
    assert BufferedImages()(one, 6, 0).images.std() > 0.3
    drawn = BufferedImages(first=ProceduralImages())(one, 6, 0).images
    assert float(drawn.min()) >= 0.0
    assert float(drawn.max()) <= 1.0
    small = exml.Samples.of(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ShapeError, match="the buffer"):
        BufferedImages()(one, 2, 0, GenerationContext(memory=small))


def test_a_learner_gives_an_inversion_the_buffer_to_start_from():
    """Steps of almost nothing leave the images where they began."""
    strategy = (
        exml.StrategyBuilder()
        .generator(ModelInversion(iterations=1, learning_rate=1e-6, start=BufferedImages(first=GaussianNoise(0.1))))
        .normalizer(CenterLogits())
        .combiner(ByClass())
        .buffer(exml.buffers.Unbounded(8))
        .loss(Distillation())
        .training(exml.Training(iterations=1, batch_size=4, learning_rate=0.01))
        .build()
    )
    learner = exml.Learner(strategy, ConvNet(1, 4, 8))
    learner.learn(expert((0, 1)))
    first = learner.memory.images
    learner.learn(expert((2, 3), seed=1))
    second = learner.memory.of_experience(0)[learner.memory.experiences == 2].images
    distances = (second[:, None] - first[None]).abs().amax((2, 3, 4)).amin(1)
    assert float(distances.max()) < 1e-4
