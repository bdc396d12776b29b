"""Data impression: similarity and targets against NumPy, and the classifier found in all sorts of networks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from exml.core.errors import ExpertError
from exml.experts import Expert
from exml.generators import DataImpression
from exml.generators.optimized import class_similarity
from exml.protocols import GenerationContext
from tests.generators.helpers import KilledError, KillingJournal, expert, hooks_of, snapshot_of


def formula(weight):
    """C(k, j), each row scaled to [0, 1], not below 0.001; one class after the other."""
    rows = np.zeros((len(weight), len(weight)))
    for k, one in enumerate(weight):
        for j, other in enumerate(weight):
            rows[k, j] = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
        rows[k] = (rows[k] - rows[k].min()) / (rows[k].max() - rows[k].min())
    return np.maximum(rows, 1e-3)


def with_templates(templates, classes=None, outputs=None):
    """An expert whose classifier has these rows."""
    head = nn.Linear(templates.shape[1], len(templates), bias=False)
    head.weight = nn.Parameter(templates.clone())
    classes = tuple(range(len(templates))) if classes is None else classes
    outputs = classes if outputs is None else outputs
    side = int(templates.shape[1] ** 0.5)
    return Expert(nn.Sequential(nn.Flatten(), head), classes, (1, side, side), outputs=outputs)


@given(st.integers(2, 8), st.integers(2, 20), st.integers(0, 99))
def test_similarity_is_that_of_the_formula(classes, hidden, seed):
    weight = np.random.default_rng(seed).normal(size=(classes, hidden))
    got = class_similarity(torch.tensor(weight)).numpy()
    np.testing.assert_allclose(got, formula(weight), atol=1e-9)
    assert got.min() >= 1e-3
    np.testing.assert_allclose(np.diag(got), 1)


@pytest.mark.parametrize("templates", [torch.ones(1, 4), torch.ones(3, 4), torch.zeros(2, 4)])
def test_classes_that_are_all_alike_have_similarity_one(templates):
    assert torch.equal(class_similarity(templates), torch.ones(len(templates), len(templates)).double())


@pytest.mark.parametrize("beta", [0.5, 10.0])
def test_targets_have_the_means_and_variances_of_the_dirichlet_distribution(beta):
    templates = torch.randn(3, 4)
    some = with_templates(templates, classes=(4, 0, 2))
    targets = DataImpression(beta, iterations=1)(some, 12_000, 0).targets.double().numpy()
    assert targets.shape == (12_000, 5)
    assert not targets[:, [1, 3]].any()
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    alpha = beta * formula(templates.double().numpy())
    for k in range(3):
        drawn = targets[k::3][:, [4, 0, 2]]
        mean = alpha[k] / alpha[k].sum()
        np.testing.assert_allclose(drawn.mean(0), mean, atol=0.02)
        np.testing.assert_allclose(drawn.var(0), mean * (1 - mean) / (alpha[k].sum() + 1), atol=0.01)


@given(st.integers(0, 50), st.sampled_from([0.05, 0.1, 10.0]))
def test_labels_are_the_argmax_and_always_known(seed, beta):
    some = expert(classes=(2, 7, 5), outputs=range(9))
    samples = DataImpression(beta, iterations=1)(some, 40, seed)
    assert torch.equal(samples.labels, samples.targets.argmax(1))
    assert set(samples.labels.tolist()) <= {2, 5, 7}


def test_one_step_is_that_of_the_formula():
    """-Σ y log softmax(f(x) / τ) over all units: the gradient is W^T (p - y) / τ, since Σ y = 1."""
    templates = torch.randn(4, 9)
    some, tau = with_templates(templates, classes=(3, 1), outputs=(None, 1, 2, 3)), 3.0
    before = DataImpression(iterations=1, learning_rate=1e-9, temperature=tau)(some, 5, 0)
    after = DataImpression(iterations=1, learning_rate=0.5, temperature=tau)(some, 5, 0)
    z, matrix = before.images.double().numpy().reshape(5, 9), templates.double().numpy()
    logits = z @ matrix.T / tau
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = (p - before.targets.double().numpy()) @ matrix / tau
    sure = np.abs(gradient) > 1e-4  # below, the sign is a matter of rounding
    assert sure.mean() > 0.9
    expected = z - 0.5 * gradient / (np.abs(gradient) + 1e-8)
    np.testing.assert_allclose(after.images.numpy().reshape(5, 9)[sure], expected[sure], atol=1e-5)


def test_the_experts_probabilities_approach_the_targets():
    some = expert(classes=(2, 5, 7))
    samples = DataImpression(1.0, iterations=200, temperature=1.0)(some, 12, 0)
    some.module.eval()
    with torch.no_grad():
        probabilities = some.logits(samples.images).softmax(1)
    torch.testing.assert_close(probabilities, samples.targets[:, [2, 5, 7]], atol=0.03, rtol=0)


def test_templates_are_the_rows_of_the_known_classes():
    """Rows of units that were never trained are far from all others, and must not matter."""
    templates = torch.randn(3, 4)
    wide = torch.full((6, 4), 100.0)
    wide[[4, 0, 2]] = templates
    narrow = with_templates(templates, classes=(4, 0, 2))
    full = with_templates(wide, classes=(4, 0, 2), outputs=range(6))
    one, two = (DataImpression(iterations=1)(some, 30, 0).targets for some in (narrow, full))
    assert torch.equal(one, two)


def test_one_class_alone():
    samples = DataImpression(iterations=1)(expert(classes=(3,)), 4, 0)
    assert samples.labels.tolist() == [3] * 4
    assert torch.equal(samples.targets[:, 3], torch.ones(4))


class TwoHeads(nn.Module):
    """The classifier is neither the last layer nor the only one of its width."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.classifier = nn.Linear(3, 3)
        self.hidden = nn.Linear(16, 3)
        self.unused = nn.Linear(5, 3)

    def forward(self, x):
        return self.scale * self.classifier(self.hidden(x.flatten(1)).relu())


class Convolutional(nn.Module):
    """A 1x1 convolution as classifier, before the pooling or after it."""

    def __init__(self, kernel=1):
        super().__init__()
        self.body = nn.Conv2d(1, 6, 3)
        self.head = nn.Conv2d(6, 3, kernel)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3), keepdim=True)).flatten(1)


def templates_used(module, **settings):
    """Targets are a function of the seed and the templates, so equal targets mean equal templates."""
    some = Expert(module, (0, 1, 2), (1, 4, 4))
    return DataImpression(iterations=1, **settings)(some, 50, 0).targets


def test_the_classifier_is_the_layer_that_computes_the_output():
    module = TwoHeads()
    wanted = templates_used(with_templates(module.classifier.weight.detach()[:, :1].expand(3, 16)).module)
    found = templates_used(module)
    assert torch.equal(found, templates_used(module, head="classifier"))
    assert not torch.equal(found, templates_used(module, head="hidden"))
    assert not torch.equal(found, wanted)
    assert hooks_of(module) == 0


def test_the_classifier_may_be_a_convolution():
    module = Convolutional()
    rows = torch.zeros(3, 16)
    rows[:, :6] = module.head.weight.detach().flatten(1)
    assert torch.equal(templates_used(module), templates_used(with_templates(rows).module))


def test_several_classifiers_are_named():
    module = TwoHeads(scale=2.0)
    module.train()
    before = snapshot_of(module)
    with pytest.raises(ExpertError, match=r"'classifier', 'hidden', 'unused'.*head="):
        templates_used(module)
    assert snapshot_of(module) == before
    assert hooks_of(module) == 0


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (Convolutional().body, {}, "no such layer"),
        (TwoHeads(), {"head": "scale"}, r"named 'scale', got the candidates 'classifier'"),
        (TwoHeads(), {"head": ""}, r"named ''"),
    ],
)
def test_no_classifier(module, settings, message):
    with pytest.raises(ExpertError, match=message):
        templates_used(module, **settings)


def test_killed_and_resumed_is_uninterrupted():
    some, generator = expert(), DataImpression(iterations=3, batch_size=2)
    whole = generator(some, 5, 0)
    journal = KillingJournal(at=5)
    with pytest.raises(KilledError):
        generator(some, 5, 0, GenerationContext(journal=journal))
    resumed = generator(some, 5, 0, GenerationContext(journal=journal.resumed()))
    assert torch.equal(resumed.images, whole.images)
    assert torch.equal(resumed.targets, whole.targets)
