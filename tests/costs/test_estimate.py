"""Estimates work for whatever a strategy may hold, and leave everything as it was."""

import copy
from functools import partial

import attrs
import pytest
import torch

import exml
from exml import recipes
from exml.augmentation import Augmentation
from exml.buffers import ClassBalanced, Cumulative, Reservoir, Unbounded
from exml.core.errors import BufferSizeError, ExpertError
from exml.costs import CostModel, Line, count, estimate, measure
from exml.costs.leaves import batch_of, iterations_of, shortened
from exml.engine import Execution, Training
from exml.generators import (
    AuxiliaryData,
    BufferedImages,
    DataImpression,
    GaussianNoise,
    InMemory,
    Mixture,
    ModelInversion,
    ProceduralImages,
)
from exml.priors import BatchNormStatistics
from exml.scenarios import registry
from tests import tiny

quick = partial(measure, seconds=0.01)
CHANGES = {
    "mixture": {
        "generator": Mixture(
            (ModelInversion(iterations=3, batch_size=4), DataImpression(iterations=2)), weights=(1, 3)
        ),
        "prior": BatchNormStatistics(1.0),
        "augmentation": Augmentation(shift=1),
    },
    "started": {"generator": ModelInversion(iterations=3, start=BufferedImages(first=ProceduralImages()))},
    "auxiliary": {"generator": AuxiliaryData(InMemory(torch.rand(9, 1, 4, 4)))},
    "one iteration": {"generator": ModelInversion(iterations=1)},
    "bank": {"training": Training(iterations=8, batch_size=4, learning_rate=0.01, views=3)},
    "one sample": {"training": Training(iterations=8, batch_size=2, learning_rate=0.01)},
    "reset": {"student": "reset"},
    "unbounded": {"buffer": Unbounded(3)},
    "reservoir": {"buffer": Reservoir(5, per_experience=3)},
    "balanced": {"buffer": ClassBalanced(12)},
    "one image": {"buffer": Unbounded(1), "generator": ModelInversion(iterations=2)},
}


@pytest.fixture
def scenario():
    return tiny.make("tiny-nc", 0, "test")


@pytest.fixture
def pair(scenario):
    """An expert and a student."""
    expert = exml.Expert(
        scenario.make_module(0), scenario.experiences[0].classes, scenario.image_shape, outputs=range(tiny.CLASSES)
    )
    return expert, scenario.make_student(0)


def states(*modules):
    return [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in modules]


@pytest.mark.parametrize("name", [name for name in recipes.RECIPES if not name.startswith(("paper-", "reference-"))])
def test_every_recipe(monkeypatch, pair, name):
    monkeypatch.setitem(registry._FACTORIES, "tiny-nc", tiny.FACTORIES["tiny-nc"])
    strategy = recipes.for_scenario(name, "tiny-nc").build()
    cost = CostModel(strategy, quick(strategy, *pair), count(strategy, *pair)).cost(2)
    assert cost.experts == 2
    assert cost.images == sum(strategy.buffer.share(i) for i in (1, 2))
    assert cost.generation > 0
    assert cost.distillation > 0
    assert cost.peak_bytes > cost.buffer_bytes > 0


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_whatever_a_strategy_holds(pair, changes):
    strategy = tiny.strategy(**changes)
    rates = quick(strategy, *pair)
    cost = CostModel(strategy, rates, count(strategy, *pair), ranks=2).cost(3)
    assert cost.seconds > 0
    assert all(cost.of(i) > 0 for i in (1, 2, 3))
    views = strategy.training.views
    assert (rates.later.view > 0) <= (views > 0)


def test_neither_model_is_changed(pair):
    expert, student = pair
    student.train()
    expert.module.eval()
    before = states(expert.module, student)
    drawn = torch.get_rng_state()
    cost = estimate(tiny.inversion(augmentation=Augmentation(shift=1)), expert, student, experts=4)
    assert cost.experts == 4
    for old, module in zip(before, (expert.module, student), strict=True):
        assert all(torch.equal(old[name], tensor) for name, tensor in module.state_dict().items())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    assert student.training
    assert not expert.module.training
    assert torch.equal(drawn, torch.get_rng_state())


def test_ranks_and_execution(pair):
    cost = estimate(tiny.strategy(), *pair, experts=2, ranks=2, execution=Execution("auto", "bfloat16"))
    assert cost.ranks == 2
    assert "2 experts on 2 ranks: " in str(cost)


def test_models_that_do_not_fit(pair):
    expert, student = pair
    with pytest.raises(BufferSizeError, match="at least 17 samples"):
        estimate(tiny.strategy(), expert, student, experts=17)
    with pytest.raises(ExpertError, match="class ids below 4"):
        estimate(tiny.strategy(), attrs.evolve(expert, outputs=(0, 1, 2, 3, 7)), student, experts=2)


@attrs.frozen
class Polished:
    """What somebody else may write: another generator, whose images are changed a few times."""

    inner: object
    iterations: int = 40

    uses_priors = True

    def __call__(self, expert, size, seed, context=None, /):
        samples = self.inner(expert, size, seed)
        for _ in range(self.iterations):
            samples = attrs.evolve(samples, images=samples.images.clamp(0, 1))
        return samples


class Unknown:
    """And one that tells nothing of itself."""

    uses_priors = False

    def __call__(self, expert, size, seed, context=None, /):
        return GaussianNoise()(expert, size, seed)


def test_generators_from_outside(pair):
    polished = Polished(ModelInversion(iterations=80))
    assert (iterations_of(polished), batch_of(polished, 9)) == (80, 9)
    assert shortened(polished, 2) == Polished(ModelInversion(iterations=2), iterations=1)
    for generator in (polished, Unknown(), Mixture((polished, Unknown()))):
        strategy = tiny.strategy(generator=generator)
        cost = CostModel(strategy, quick(strategy, *pair), count(strategy, *pair)).cost(2)
        assert cost.generation > 0


def test_shorter_mixtures_keep_their_proportions():
    inner = (ModelInversion(iterations=100), GaussianNoise(), DataImpression(iterations=50))
    mixture = Mixture(inner)
    assert [getattr(part, "iterations", 0) for part in shortened(mixture, 4).generators] == [4, 0, 2]
    assert mixture.generators == inner


def test_measured_lines_are_those_of_the_clock(pair):
    """With a clock that advances by one second whenever it is read, what is measured can be counted."""
    ticks = iter(range(10**6))
    rates = quick(tiny.strategy(), *pair, clock=lambda: float(next(ticks)))
    assert rates.later.step == Line(fixed=1.0, each=0.0)
    assert rates.generation[0].step == Line()
    assert rates.generation[0].call == Line(fixed=1.0, each=0.0)


def test_counting_is_the_same_each_time_and_changes_nothing(pair):
    expert, student = copy.deepcopy(pair[0]), copy.deepcopy(pair[1])
    strategy = tiny.strategy(buffer=Cumulative(8))
    first, second = count(strategy, expert, student), count(strategy, *pair)
    assert attrs.evolve(first, activations=0.0) == attrs.evolve(second, activations=0.0)
