"""The forecast: exact for linear loops, for every kind of strategy, on copies of the models."""

import attrs
import pytest
import torch
from torch import nn

import exml
from exml import runs
from exml.buffers import Cumulative, Reservoir
from exml.calibrations import Center, CommonScale
from exml.combiners import SideBySide
from exml.core.errors import BufferSizeError, ShapeError
from exml.engine import Training
from exml.generators import BufferedImages, GaussianNoise, Mixture, ModelInversion, ProceduralImages
from exml.runs import Forecast, forecast
from exml.runs import table as tables
from tests import tiny
from tests.helpers import experts, network, same, weights


class Clock:
    """A clock that only ticks when something advances it."""

    now = 0.0

    def __call__(self):
        return self.now


class Slow(nn.Module):
    """A student whose training step takes two seconds; copies share the clock."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.net = [clock], network(2)

    def __deepcopy__(self, memo):
        return Slow(*self.clock)

    def forward(self, images):
        self.clock[0].now += 2.0 if self.training else 0.0
        return self.net(images)


@attrs.frozen
class Timed:
    """A generator that takes 1 + n / 2 seconds, and per iteration over n images 2 + n / 4."""

    clock: Clock
    iterations: int = 10
    batch_size: int = 5
    uses_priors = uses_real_data = False

    def __call__(self, expert, size, seed, context=None, /):
        sizes = [min(self.batch_size, size - first) for first in range(0, size, self.batch_size)]
        self.clock.now += 1 + size / 2 + self.iterations * sum(2 + n / 4 for n in sizes)
        return GaussianNoise()(expert, size, seed)


@attrs.frozen
class Evolving:
    """A generator of 60 steps of n / 4 seconds each, which start at images of another generator."""

    other: Timed
    steps: int = 60
    uses_priors = uses_real_data = False

    def __call__(self, expert, size, seed, context=None, /):
        self.other.clock.now += self.steps * size / 4
        return self.other(expert, size, seed)


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("policy", [Cumulative(40), Reservoir(20, per_experience=12)])
@pytest.mark.parametrize("generator", [Timed, lambda clock: Evolving(Timed(clock))])
def test_it_is_exact_where_time_is_linear(count, policy, generator):
    clock = Clock()
    chosen = tiny.strategy(generator=generator(clock), buffer=policy)
    found = forecast(chosen, experts(1)[0], Slow(clock), experts=count, clock=clock)
    clock.now = 0.0
    for experience in range(1, count + 1):
        chosen.generator(experts(1)[0], policy.share(experience), 0)
    assert found.generation == pytest.approx(clock.now)
    assert found.distillation == pytest.approx(count * chosen.training.iterations * 2.0)
    assert found.seconds == found.generation + found.distillation


@pytest.mark.parametrize(
    "changes",
    [
        {"generator": GaussianNoise()},
        {"generator": Mixture((GaussianNoise(), ModelInversion(iterations=4, batch_size=5)))},
        {"generator": BufferedImages(ProceduralImages())},
        {"training": Training(iterations=7, batch_size=4, learning_rate=0.05, views=2, ridge=0.1)},
        {"student": "first-expert"},
        {"student": "first-expert", "calibration": CommonScale((Center(),))},
        {"training": Training(iterations=7, batch_size=4, learning_rate=0.05, stored=True), "combiner": SideBySide()},
    ],
    ids=["no iterations", "mixture", "buffered", "bank", "first expert", "calibrated", "stored"],
)
def test_every_kind_of_strategy_has_a_forecast(changes):
    chosen = tiny.strategy(**changes)
    expert, student = experts(1)[0], network(2)
    before = weights(expert.module), weights(student)
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    one, several = (forecast(chosen, expert, student, experts=count) for count in (1, 5))
    assert torch.equal(torch.rand(1), drawn)
    assert min(one.generation, several.generation) > 0
    assert (one.distillation == 0) == (chosen.student == "first-expert" and chosen.calibration is None)
    assert several.distillation > 0
    assert same(weights(expert.module), before[0])
    assert same(weights(student), before[1])


def test_a_run_that_would_fail_has_no_forecast():
    with pytest.raises(BufferSizeError):
        forecast(tiny.strategy(buffer=Cumulative(3)), experts(1)[0], network(2), experts=4)
    with pytest.raises(ShapeError, match="student that takes images"):
        forecast(tiny.strategy(), experts(1)[0], nn.Linear(3, 2), experts=4)


def test_it_is_near_the_truth_and_recorded(tmp_path):
    """The order of magnitude of a short run is right; the benchmark states the error."""
    chosen = {"a": tiny.strategy(buffer=Cumulative(64), generator=ModelInversion(iterations=100, batch_size=32))}
    source = runs.FolderExperts(tmp_path / "experts")
    for order in range(3):
        module = exml.models.ConvNet(1, 2, 6, widths=(4,))
        expert = exml.Expert(module, (order, order + 1), (1, 6, 6), name=f"e{order}")
        exml.experts.save_expert(expert, tmp_path / "experts")
    found = runs.forecasts(source, chosen)
    result = runs.run(source, chosen, tmp_path / "out", settings=runs.RunSettings(forecasts=found))
    (row,) = result.strategies
    assert row.forecast == found["a"]
    assert 0.1 < (row.seconds.generation + row.seconds.distillation) / found["a"].seconds < 10
    resumed = runs.run(source, chosen, tmp_path / "out", resume=True)
    assert resumed.strategies[0].forecast == found["a"]
    (line,) = tables.forecast_lines(attrs.evolve(result, strategies=(attrs.evolve(row, forecast=Forecast(1.0, 2.0)),)))
    assert line.startswith("a: forecast 3.0 s, took ")
