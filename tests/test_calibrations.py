"""Calibrations: the formulas in float64 with NumPy, layers found by their properties, and what a learner does."""

import attrs
import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import entr, logsumexp, softmax
from torch import nn

import exml
from exml.calibrations import CommonScale
from exml.combiners import SideBySide
from exml.core.errors import StrategyError
from exml.core.expert import Expert
from exml.core.rng import derive_seed, make_generator
from exml.engine.reading import matched_temperature, reader_of, row_space_typicality
from exml.generators import EvolvedDrawings, ProceduralImages
from exml.learning import Stop
from exml.models import ConvNet, LeNet5
from exml.normalizers import RawLogits
from tests.helpers import SHAPE, experts, network, same, strategy, weights

DRAWINGS = EvolvedDrawings(steps=4, snapshots=1, copies=1, pool=60)
SCALE = CommonScale(drawings=DRAWINGS)


def mlp(outputs=3, factor=1.0, shape=SHAPE):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 9), nn.ReLU(), nn.Linear(9, outputs)).double().float()
    with torch.no_grad():
        net[3].weight *= factor
        net[3].bias *= factor
    return Expert(net, range(outputs), shape, mean=(0.2,), std=(0.4,))


def in_float64(expert, images):
    """z, the norm of h, and the typicality, in NumPy."""
    first, last = (expert.module[place] for place in (1, 3))
    w, b, v, c = (part.detach().double().numpy() for layer in (first, last) for part in (layer.weight, layer.bias))
    a = (images.double().numpy().reshape(len(images), -1) - 0.2) / 0.4
    h = np.maximum(a @ w.T + b, 0)
    basis = np.linalg.svd(w, full_matrices=False)[2]
    typicality = -np.log(1 - ((a @ basis.T) ** 2).sum(1) / (a**2).sum(1))
    return h @ v.T + c, np.linalg.norm(h, axis=1, keepdims=True), typicality


def test_the_formula():
    expert, seed = mlp(), 5
    pool = DRAWINGS.random(60, SHAPE, make_generator("cpu", seed, "common-scale"))
    evolved = DRAWINGS(expert, 200, derive_seed(seed, "evolved")).images
    images = torch.rand(7, *SHAPE)

    def margins(z, norm):
        return (z - z.mean(1, keepdims=True)) / np.sqrt(norm)

    def entropy(log_t, u):
        return entr(softmax(u / np.exp(log_t), axis=1)).sum(1).mean() - 0.5 * np.log(3)

    def surplus(z, norm):
        b = margins(z, norm) / temperature
        return b - 0.5 * (logsumexp(b, axis=1, keepdims=True) - np.log(3))

    z, norm, q = in_float64(expert, pool)
    temperature = np.exp(brentq(entropy, -9, 9, args=(margins(z, norm),)))
    offset = surplus(z, norm).max(1).mean()
    level = max(((in_float64(expert, evolved)[2] - q.mean()) / q.std(ddof=1)).mean(), 0.5)
    own, own_norm, own_q = in_float64(expert, images)
    typical = (own_q - q.mean()) / (q.std(ddof=1) * level)
    wanted = 3 * (surplus(own, own_norm) - offset / 4 + typical[:, None] / 4)
    np.testing.assert_allclose(SCALE(expert, seed).logits(images).detach(), wanted, rtol=1e-3, atol=1e-3)


def test_the_size_of_a_head_does_not_matter():
    images = torch.rand(9, *SHAPE)
    small, large = (SCALE(mlp(factor=factor), 0).logits(images) for factor in (0.1, 40.0))
    torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-3)


def test_an_entropy_is_matched():
    logits = 30 * torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) + 100
    p = softmax(logits.double().numpy() / matched_temperature(logits, 0.3), axis=1)
    assert entr(p).sum(1).mean() / np.log(7) == pytest.approx(0.3, abs=1e-6)
    assert matched_temperature(torch.randn(5, 1), 0.5) == matched_temperature(torch.ones(5, 2), 0.5) == 1


@pytest.mark.parametrize(
    ("module", "units", "names"),
    [
        (LeNet5(1, 4, 28), 4, ("classifier", "hidden.1")),
        (ConvNet(1, 4, 28), 4, ("classifier", "features.4")),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 4)), 4, ("1", None)),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 900), nn.ReLU(), nn.Linear(900, 4)), 4, ("3", None)),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 4, (None, "0")),
    ],
)
def test_layers_are_found_by_what_they_do(module, units, names):
    reader = reader_of(Expert(module, range(units), (1, 28, 28)))
    assert (reader.classifier, reader.narrowing) == names


@pytest.mark.parametrize("settings", [{"padding": 1, "stride": 2}, {"dilation": 2}])
def test_typicality_of_patches(settings):
    layer, inputs = nn.Conv2d(3, 5, 3, **settings), torch.randn(4, 3, 9, 9)
    basis = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)[2]
    patches = nn.functional.unfold(inputs, 3, **settings).double()
    inside = torch.einsum("rp,npl->nrl", basis.double(), patches).square().sum((1, 2))
    wanted = -(1 - inside / patches.square().sum((1, 2))).log()
    torch.testing.assert_close(row_space_typicality(inputs, layer, basis).double(), wanted, rtol=1e-4, atol=1e-4)


class Function(nn.Module):
    """Stands for a module without layers, weights or gradients."""

    @torch.no_grad()
    def forward(self, images):
        return torch.stack([images.mean((1, 2, 3)), images.amax((1, 2, 3))], 1)


@pytest.mark.parametrize(
    "expert",
    [
        Expert(Function(), (4, 2), SHAPE),
        mlp(1),
        Expert(network(6), (3,), SHAPE, outputs=range(6)),
        Expert(mlp().module, (7, 1), SHAPE, outputs=(7, None, 1)),
    ],
    ids=["a function", "one class", "one class of six units", "a unit without a class"],
)
def test_other_experts_are_calibrated_as_far_as_possible(expert):
    images = torch.rand(6, *SHAPE)
    calibrated = SCALE(expert, 0)
    logits = calibrated.logits(images)
    assert logits.shape == (6, len(expert.outputs))
    assert logits.isfinite().all()
    assert same(weights(calibrated.module), {f"module.{k}": v for k, v in weights(expert.module).items()})
    assert torch.equal(calibrated.predicted_ids(images), expert.predicted_ids(images))


def test_a_learner_calibrates_also_when_it_resumes(tmp_path):
    parts = {"generator": ProceduralImages(), "prior": None, "combiner": SideBySide(), "normalizer": RawLogits()}
    ours = strategy(**parts, calibration=SCALE)

    whole, plain = (exml.Learner(each, network(6, seed=1)) for each in (ours, attrs.evolve(ours, calibration=None)))
    for each in (whole, plain):
        each.learn(experts()[0])
    stop = Stop()
    stopped = exml.Learner(ours, network(6, seed=1), folder=tmp_path, stop=stop)
    stopped.observers.append(lambda event: stop.ask() if type(event).__name__ == "DistillationProgress" else None)
    stopped.learn(experts()[0])
    assert stopped.experience == 0
    resumed = exml.Learner(ours, network(6, seed=1)).resume(tmp_path)
    resumed.learn(experts()[0])
    assert same(weights(resumed.student), weights(whole.student))
    assert not same(weights(plain.student), weights(whole.student))


def test_strategies():
    ours = strategy(calibration=SCALE)
    assert exml.Strategy.from_yaml(ours.to_yaml()) == ours
    assert "calibration" not in strategy().to_dict()
    with pytest.raises(StrategyError, match="copy of the first expert"):
        strategy(calibration=SCALE, student="first-expert")
