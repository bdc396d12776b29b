"""Experts for images of another shape: they see what torchvision's conversions would give them, and stay usable."""

import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as oracle

from exml.core.activation import record_activations
from exml.core.errors import ExpertError
from exml.engine.lowering import lowered, recorded
from exml.experts import Expert, adapted
from exml.experts.screening import copies
from exml.generators import DataImpression, ModelInversion
from exml.learning.screening import Panel
from exml.models import ConvNet
from exml.priors import BatchNormStatistics
from exml.protocols import GenerationContext

PAIRS = [
    ((1, 28, 28), (1, 32, 32)),
    ((1, 32, 32), (1, 28, 28)),
    ((3, 32, 32), (1, 28, 28)),
    ((3, 28, 28), (1, 28, 28)),
    ((1, 28, 28), (3, 32, 32)),
    ((1, 32, 32), (3, 32, 32)),
    ((3, 20, 36), (3, 31, 17)),
    ((4, 8, 8), (4, 9, 9)),
]


class Seen(nn.Module):
    """Its logits are the pixels that arrive."""

    def forward(self, images):
        return images.flatten(1)


def seen_by(own, **fields):
    return Expert(Seen(), range(own[0] * own[1] * own[2]), own, **fields)


def convnet(own=(3, 16, 16), classes=(0, 1, 2), seed=0, **fields):
    torch.manual_seed(seed)
    module = ConvNet(channels=own[0], classes=len(classes), image_size=own[1]).eval()
    return Expert(module, classes, own, mean=(0.4,) * own[0], std=(0.2, 0.25, 0.3)[: own[0]], name="net", **fields)


@pytest.mark.parametrize(("own", "given"), PAIRS)
@pytest.mark.parametrize("shared", [True, False], ids=["one-mean", "mean-per-channel"])
def test_the_module_gets_the_converted_and_normalized_pixels(own, given, shared):
    mean, std = ((0.4,), (0.3,)) if shared else ((0.3, 0.45, 0.6, 0.1)[: own[0]], (0.2, 0.25, 0.3, 0.1)[: own[0]])
    expert = seen_by(own, mean=mean, std=std)
    pixels = torch.rand(2, *given, generator=torch.Generator().manual_seed(0))
    converted = pixels
    if own[0] < given[0]:
        converted = oracle.rgb_to_grayscale(pixels.double()).float()
    converted = oracle.resize(converted, own[1:], antialias=True).expand(-1, own[0], -1, -1)
    got = adapted(expert, given).logits(pixels).view_as(converted)
    torch.testing.assert_close(got, expert.normalize(converted), atol=1e-3 if own[0] < given[0] else 1e-5, rtol=0)


def test_the_same_shape_is_the_same_expert():
    expert = convnet()
    assert adapted(expert, (3, 16, 16)) is expert
    with pytest.raises(ExpertError, match=r"3 channel.*'net'"):
        adapted(expert, (4, 16, 16))


@pytest.mark.parametrize("given", [(1, 12, 20), (3, 20, 12)])
def test_the_gradient_is_right(given):
    expert = Expert(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2)).double(), (0, 1), (3, 16, 16))
    module = adapted(expert, given).module
    images = torch.rand(1, *given, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (images,))


@pytest.mark.parametrize("given", [(1, 16, 16), (3, 20, 20), (1, 12, 12)])
def test_an_adapted_expert_passes_all_checks_and_every_engine(given):
    expert = adapted(convnet(), given)
    expert.check()
    expert.check_gradient()
    assert expert.fingerprint() == adapted(convnet(), given).fingerprint()
    images = expert.normalize(torch.rand(4, *given))
    with record_activations(expert.module) as activations:
        logits = expert.module(images)
    assert [activation.layer for activation in activations] == ["module.features.1", "module.features.5"]
    with lowered(expert.module, images) as fast:
        assert type(fast).__name__ == "GraphModule"  # traced, not run as it is
        torch.testing.assert_close(fast(images), logits, atol=1e-4, rtol=1e-4)
    with recorded(expert.module, images, record=True) as network:
        _, found = network(images)
        for one, other in zip(found, activations, strict=True):
            torch.testing.assert_close(one.input, other.input, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "generator",
    [
        ModelInversion(iterations=3, learning_rate=0.1, batch_size=4),
        DataImpression(iterations=3, learning_rate=0.1, batch_size=4),
        DataImpression(iterations=3, learning_rate=0.1, batch_size=4, head="classifier"),
    ],
    ids=["inversion", "impression", "impression-with-head"],
)
def test_generators_make_images_of_the_new_shape(generator):
    expert = adapted(convnet(classes=(4, 5, 6)), (1, 20, 20))
    context = GenerationContext(prior=BatchNormStatistics(0.1))
    samples = generator(expert, 4, 0, context)
    assert samples.images.shape == (4, 1, 20, 20)
    assert set(samples.labels.tolist()) <= {4, 5, 6}


def test_experts_of_different_shapes_are_screened_together():
    gray = convnet((1, 16, 16), classes=(0, 1, 2, 3, 4))
    experts = [adapted(gray, (3, 18, 18)), adapted(adapted(gray, (1, 18, 18)), (3, 18, 18))]
    panel = Panel()
    first, second = (panel.observe(expert) for expert in experts)
    panel.seat(first)
    assert panel.screen(second).reasons == ()
    assert copies(first, second)  # two ways to the same pixels
    other = panel.observe(adapted(convnet((3, 20, 20), classes=(0, 1, 2, 3, 4), seed=1), (3, 18, 18)))
    assert other.logits.shape == first.logits.shape
    assert panel.screen(other).agreement < 0.9
