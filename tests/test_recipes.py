"""Recipes choose a strategy from the profile of the experts, and from nothing else."""

import json
from itertools import permutations
from pathlib import Path

import attrs
import pytest
import torch
from torch import nn

import exml
from exml.calibrations import CommonScale, Energy, Typicality
from exml.combiners import ByClass, MultiTask, SideBySide
from exml.core.errors import SettingError, UnknownNameError
from exml.core.execution import Execution
from exml.generators import DataImpression, ModelInversion, ProceduralImages
from exml.losses import Distillation, MeanSquaredError
from exml.models import ConvNet, Normalized, SlimResNet18
from exml.normalizers import CenterLogits, RawLogits
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm, Sum
from exml.recipes import RECIPES, at_budget, default, for_scenario, recipe
from exml.scenarios import ScenarioSource, load
from tests.helpers import profile

BEFORE = Path(__file__).parent / "data" / "strategies.json"
CONV_NET = {"channels": 1, "classes": 10, "image_size": 8}
DRAWINGS = ProceduralImages(("strokes",), polarity="light", full_contrast=True)
COLORED_DRAWINGS = ProceduralImages(polarity="any", full_contrast=True)
COLOR = (3, 8, 8)


def plain_net():
    return ConvNet(**CONV_NET, batch_norm=False)


def linear(channels=1):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, 10))


def resnet():
    return SlimResNet18(3, 10, 2)


@pytest.mark.parametrize("scenario", ["digits-joint", "digits-nc", "digits-mt", "digits-ni"])
def test_grey_experts_with_batch_norm_are_inverted(scenario):
    strategy = for_scenario("exml", scenario).build()
    tasks = load(scenario).tasks
    assert isinstance(strategy.generator, DataImpression)
    assert strategy.prior == for_scenario("data-impression", scenario).build().prior
    assert (strategy.loss, strategy.student) == (Distillation(cross_entropy=10.0), "continue")
    assert strategy.combiner == (ByClass() if tasks is None else MultiTask(tasks, ByClass()))


@pytest.mark.parametrize(("count", "tasks"), [(1, False), (1, True), (3, True)])
def test_experts_without_batch_norm_are_matched_on_drawings(count, tasks):
    experts = profile(*[plain_net() for _ in range(count)], tasks=tasks)
    strategy = default(experts).build()
    assert (strategy.generator, strategy.prior, strategy.loss) == (DRAWINGS, None, MeanSquaredError("seen"))
    assert strategy.combiner == (MultiTask(experts.tasks, ByClass()) if tasks else SideBySide(0.4))
    assert strategy.normalizer == (RawLogits() if tasks else CenterLogits())
    assert strategy.student == ("first-expert" if count > 1 else "continue")
    assert strategy.training.iterations == (12_000 if count == 1 else 3_000)


def test_alike_experts_without_batch_norm_are_told_apart_by_their_weights():
    strategy = default(profile(plain_net(), plain_net(), plain_net())).build()
    assert strategy.training.stored
    assert isinstance(strategy.calibration, CommonScale)
    assert (strategy.combiner, strategy.normalizer, strategy.student) == (SideBySide(), RawLogits(), "first-expert")
    color = default(profile(linear(3), linear(3), image_shape=COLOR)).build()
    assert color.calibration is None
    assert not color.training.stored


@pytest.mark.parametrize(
    ("mean", "polarity", "filled"), [(0.1, "light", 0), (0.3, "light", 0.5), (0.7, "dark", 0.5), (0.9, "dark", 0)]
)
def test_drawings_suit_the_brightness_that_the_experts_expect(mean, polarity, filled):
    experts = [attrs.evolve(expert, mean=(mean,)) for expert in profile(plain_net(), plain_net()).experts]
    drawings = default(exml.ExpertProfile(experts)).build().generator.generators
    assert {(part.polarity, part.filled) for part in drawings} == {(polarity, filled)}


def test_large_experts_with_tasks_are_continued_from():
    """Batch norm keeps what the first expert saw, and the last layer is solved for."""
    strategy = default(profile(resnet(), resnet(), image_shape=COLOR, tasks=True)).build()
    assert (strategy.generator, strategy.prior) == (COLORED_DRAWINGS, None)
    assert (strategy.combiner, strategy.student) == (SideBySide(0.4, scale="previous"), "first-expert")
    assert (strategy.loss, strategy.normalizer) == (MeanSquaredError("seen"), CenterLogits())
    assert (strategy.training.batch_norm, strategy.training.ridge, strategy.training.hints) == ("running", 0.01, 0)


@pytest.mark.parametrize(("count", "tasks"), [(1, None), (1, True), (2, None)])
def test_networks_for_color_images_give_their_feature_maps(count, tasks):
    strategy = default(profile(*[resnet() for _ in range(count)], image_shape=COLOR, tasks=tasks)).build()
    inverted, drawn = strategy.generator.generators
    assert (inverted.start, drawn, strategy.prior) == (COLORED_DRAWINGS, COLORED_DRAWINGS, BatchNormStatistics(10.0))
    assert strategy.training.hints > 0
    assert strategy.training.iterations == (16_000 if count == 1 else 1_700)
    assert (strategy.loss, strategy.normalizer) == (MeanSquaredError("seen", reduction="mean"), CenterLogits())
    assert strategy.student == ("continue" if count == 1 else "first-expert")


@pytest.mark.parametrize("name", [name for name in RECIPES if "replay" not in name])
def test_the_order_of_the_experts_does_not_matter(name):
    modules = [ConvNet(**CONV_NET), plain_net(), linear()]
    experts = profile(*modules).experts
    made = [recipe(name, exml.ExpertProfile(order)).build() for order in permutations(experts)]
    assert made == [made[0]] * 6


def test_a_student_that_cannot_be_a_copy_is_none():
    grey = profile(plain_net(), plain_net())
    own = Normalized(plain_net(), (0.3,), (0.4,))
    assert default(grey, student=own).build().student == "first-expert"
    assert default(attrs.evolve(profile(plain_net()), open_ended=True)).build().student == "first-expert"
    others = [plain_net(), Normalized(plain_net(), (0.5,), (0.4,)), Normalized(linear(), (0.3,), (0.4,))]
    others += [Normalized(ConvNet(**CONV_NET | {"classes": 11}, batch_norm=False), (0.3,), (0.4,))]
    for student in others:
        assert default(grey, student=student).build().student == "continue"
    assert default(profile(plain_net(), linear())).build().student == "continue"
    narrow = attrs.evolve(grey.experts[0], outputs=(1, 0, *range(2, 10)))
    assert default(exml.ExpertProfile([grey.experts[0], narrow])).build().student == "continue"
    color = default(profile(resnet(), resnet(), image_shape=COLOR), student=linear(3)).build()
    assert color.student == "continue"
    assert color.training.hints > 0


@pytest.mark.parametrize("differentiable", [True, False])
def test_unlike_experts_are_calibrated(differentiable):
    made = profile(plain_net(), linear())
    made = exml.ExpertProfile([attrs.evolve(expert, differentiable=differentiable) for expert in made.experts])
    strategy = default(made).build()
    assert isinstance(strategy.calibration, CommonScale)
    assert (strategy.combiner, strategy.normalizer, strategy.student) == (SideBySide(), RawLogits(), "continue")
    inverted = [isinstance(generator, ModelInversion) for generator in strategy.generator.generators]
    assert any(inverted) == differentiable
    assert strategy.training.margin > 0
    shared = [attrs.evolve(made.experts[0], classes=made.experts[1].classes), made.experts[1]]
    assert default(exml.ExpertProfile(shared)).build().training.margin == 0
    alike = profile(plain_net(), plain_net())
    narrow = attrs.evolve(alike.experts[0], outputs=alike.experts[0].classes)
    assert default(exml.ExpertProfile([alike.experts[1], narrow])).build().calibration is not None
    assert default(profile(plain_net(), linear(), tasks=True)).build().calibration is None
    color = profile(resnet(), linear(3), image_shape=COLOR)
    steps = default(color).build().calibration.steps
    assert Energy(1.0) in steps
    assert not any(isinstance(step, Typicality) for step in steps)
    shared = [attrs.evolve(expert, classes=color.experts[0].classes) for expert in color.experts]
    assert default(exml.ExpertProfile(shared)).build().training.hints > 0


@pytest.mark.parametrize("order", [1, -1])
def test_one_network_with_batch_norm_and_one_without(order):
    """The strategy serves both, whichever comes first, and any student."""
    experts = [
        exml.Expert(module, (2 * number, 2 * number + 1), (1, 8, 8), mean=(0.3,), std=(0.4,))
        for number, module in enumerate(
            [ConvNet(1, 2, 8, widths=(3,)), nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 2))]
        )
    ][::order]
    builder = default(exml.ExpertProfile.from_experts(experts))
    assert builder.build().prior == BatchNormStatistics(10.0, absent="ignore")
    training = attrs.evolve(builder.build().training, iterations=2, batch_size=4)
    strategy = builder.buffer(exml.buffers.Cumulative(8)).training(training).build()
    learner = exml.Learner(strategy, nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), seed=0)
    learner.learn_stream(exml.ExpertStream.from_experts(experts))
    assert (learner.experience, learner.classes_seen) == (2, (0, 1, 2, 3))
    assert torch.isfinite(learner.student(torch.rand(2, 1, 8, 8))).all()


every_kind = pytest.mark.parametrize(
    ("modules", "tasks"),
    [
        ((plain_net, linear), False),
        ((linear, linear), False),
        ((lambda: ConvNet(**CONV_NET),) * 2, False),
        ((plain_net,), False),
        ((resnet,), False),
        ((resnet, resnet), False),
        ((resnet, resnet), True),
    ],
    ids=["unlike", "alike", "batch norm", "one", "one of color", "color", "tasks"],
)


@every_kind
def test_the_buffer_of_large_images_has_less_than_two_gigabytes(modules, tasks):
    channels = 3 if modules[0] is resnet else 1
    built = [make() for make in modules]
    small = profile(*built, image_shape=(channels, 8, 8), tasks=tasks)
    buffers = {}
    for side in (8, 32, 1024):
        large = [attrs.evolve(expert, image_shape=(channels, side, side)) for expert in small.experts]
        strategy = default(exml.ExpertProfile(large)).build()
        views = 0 if strategy.training.stored else strategy.training.views
        buffers[side] = 4 * strategy.buffer.size * (1 + views) * channels * side**2, strategy.buffer.size
    assert buffers[8][1] == buffers[32][1] > buffers[1024][1]
    assert 2**30 < buffers[1024][0] <= 2**31


@every_kind
def test_every_kind_of_default_strategy_learns_in_bfloat16(modules, tasks):
    experts = []
    for number, make in enumerate(modules):
        channels, classes = 3 if make is resnet else 1, (2 * number, 2 * number + 1)
        about = {"mean": (0.3,) * channels, "std": (0.4,) * channels, "task": number if tasks else None}
        experts.append(exml.Expert(make(), classes, (channels, 8, 8), outputs=range(10), **about))
    strategy = at_budget(default(exml.ExpertProfile.from_experts(experts)).build(), 0.001)
    student = Normalized(modules[0](), experts[0].mean, experts[0].std)
    strategy = attrs.evolve(strategy, on_suspect="accept")  # untrained experts
    learner = exml.Learner(strategy, student, seed=0, execution=Execution(precision="bfloat16"))
    learner.learn_stream(exml.ExpertStream.from_experts(experts))
    assert learner.experience == len(modules)
    assert all(tensor.isfinite().all() for tensor in student.state_dict().values())


@pytest.mark.parametrize("name", ["model-inversion", "data-impression"])
def test_the_papers_priors_are_those_that_the_experts_allow(name):
    plain = (L2Norm(0.001), GaussianBlur(0.001))
    with_norm, without = ConvNet(**CONV_NET), plain_net()
    priors = [
        recipe(name, profile(*modules)).build().prior for modules in ([with_norm], [without], [with_norm, without])
    ]
    assert priors == [
        Sum((*plain, BatchNormStatistics(1.0))),
        Sum(plain),
        Sum((*plain, BatchNormStatistics(1.0, absent="ignore"))),
    ]


@pytest.mark.parametrize("name", ["replay", "paper-replay", "reference-replay"])
def test_replay_needs_real_data(name):
    source = ScenarioSource("digits-nc", 3)
    assert recipe(name, profile(), real_data=source).build().generator.source == source
    with pytest.raises(SettingError, match="real_data"):
        recipe(name, profile())


def test_an_unknown_recipe_is_refused_with_what_there_is():
    with pytest.raises(UnknownNameError, match="exml, model-inversion"):
        recipe("magic", profile())


@pytest.mark.parametrize(("key", "expected"), json.loads(BEFORE.read_text(encoding="utf-8")).items())
def test_strategies_of_the_published_results(request, key, expected):
    """The pages of results are about these settings; to change them, measure again."""
    name, scenario = key.split(" ")
    if not scenario.startswith("digits"):
        request.getfixturevalue("exml_data")
    assert for_scenario(name, scenario).build() == exml.Strategy.from_dict(expected)
