"""Experts that are only functions: what they may return, and a student that learns from them."""

import attrs
import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import nn

import exml
from exml import scenarios
from exml.buffers import Cumulative
from exml.core.errors import ExpertError
from exml.generators import ModelInversion
from exml.recipes import default
from tests.helpers import strategy

SHAPE = (1, 4, 4)


def halves(images: np.ndarray) -> np.ndarray:
    """Probabilities of a bright upper and a bright lower half."""
    upper = images[:, :, :2].mean((1, 2, 3)) / images.mean((1, 2, 3)).clip(1e-6) / 2
    return np.stack([upper, 1 - upper], 1)


def query(function=halves, **changes):
    return exml.Expert.query(function, **{"image_shape": SHAPE, "classes": (3, 7), "name": "remote", **changes})


def test_logits_and_probabilities_come_in_batches_of_pixels():
    seen = []

    def function(images):
        seen.append(images)
        return halves(images)

    images = torch.rand(7, *SHAPE) * 3 - 1
    logits = query(function, output="probabilities", batch_size=3).logits(images)
    assert [len(part) for part in seen] == [3, 3, 1]
    assert np.array_equal(np.concatenate(seen), images.clamp(0, 1).numpy())
    assert torch.allclose(logits.exp(), torch.from_numpy(halves(images.clamp(0, 1).numpy())).clamp(min=1e-4))
    assert torch.equal(query(lambda images: torch.ones(len(images), 2)).logits(images), torch.ones(7, 2))
    assert query(labels=["up", "down"], classes=()).classes == (0, 1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: 1 / 0, "ZeroDivisionError"),
        (lambda images: np.zeros(len(images)), r"a row per image.*got \(2,\)"),
        (lambda images: np.zeros((len(images), 3)), r"got \(2, 3\)"),
        (lambda images: np.full((len(images), 2), np.nan), "NaN"),
        (lambda images: np.full((len(images), 2), -3.0), 'say output="logits"'),
        (lambda images: [["a", "b"]] * len(images), "as numbers"),
        (lambda images: None, "as numbers"),
    ],
)
def test_faults_of_the_function_name_the_expert(function, message):
    expert = query(function, output="probabilities")
    with pytest.raises(ExpertError, match=message) as raised:
        expert.logits(torch.rand(2, *SHAPE))
    assert "'remote'" in str(raised.value)


def test_a_function_has_no_gradient_and_its_own_fingerprint():
    expert, flipped = query(), query(lambda images: halves(images)[:, ::-1])
    assert not expert.differentiable
    assert exml.Expert(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), (3, 7), SHAPE).differentiable
    assert expert.fingerprint() == query().fingerprint() != flipped.fingerprint()
    with pytest.raises(ExpertError, match=r"remote.*exml\.generators\.ProceduralImages"):
        expert.check_gradient()


def test_inversion_is_refused_before_any_work():
    expert = query(image_shape=(1, 6, 6), classes=(0, 1), output="probabilities")
    student = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    learner = exml.Learner(strategy(generator=ModelInversion(iterations=1), prior=None), student)
    with pytest.raises(ExpertError, match=r"remote.*choose drawings"):
        learner.learn(expert)


def test_a_student_learns_from_a_forest_and_a_network():
    """The default recipe chooses drawings, and the student knows the classes of both."""
    experiences = scenarios.load("digits-joint").experiences[0]
    images, labels = experiences.train.pixels(), experiences.train.labels
    low = labels < 5
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[low]), labels[low]).backward()
        optimizer.step()
    forest = RandomForestClassifier(50, random_state=0).fit(images[~low].flatten(1), labels[~low])
    experts = [
        exml.Expert(network, range(5), (1, 8, 8), name="network"),
        exml.Expert.query(
            lambda images: forest.predict_proba(images.reshape(len(images), -1)),
            image_shape=(1, 8, 8),
            classes=range(5, 10),
            output="probabilities",
            name="forest",
        ),
    ]
    profile = exml.ExpertProfile.from_experts(experts)
    assert [expert.differentiable for expert in profile.experts] == [True, False]
    chosen = default(profile).build()
    short = attrs.evolve(chosen, training=attrs.evolve(chosen.training, iterations=300), buffer=Cumulative(2_000))
    student = exml.models.build("conv-net", channels=1, classes=10, image_size=8)
    exml.Learner(short, student).learn_stream(exml.ExpertStream.from_experts(experts))
    with torch.no_grad():
        hits = student.eval()(experiences.test.pixels()).argmax(1) == experiences.test.labels
    print(
        hits.float().mean(),
        hits[experiences.test.labels < 5].float().mean(),
        hits[experiences.test.labels >= 5].float().mean(),
    )
    assert hits.float().mean() > 0.5
