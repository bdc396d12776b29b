"""The paper's recipes against appendix B, read off the paper a second time, and budgets."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exml
from exml import buffers, generators, priors
from exml.core.errors import SettingError
from exml.normalizers import RawLogits
from exml.recipes import PAPER_STRATEGIES, RECIPES, at_budget, paper, recipe, reference
from tests.helpers import PAPER_SHAPES, profile

PROFILES = {name: profile(image_shape=shape) for name, shape in PAPER_SHAPES.items()}
DATA = exml.scenarios.ScenarioSource("digits-nc")
# Appendix B, top to bottom. Distillation: lr, iterations, mini-batch.
DISTILLATION = {"mnist": (0.01, 30_000, 32), "cifar10": (0.1, 50_000, 32), "core50": (0.001, 20_000, 10)}
# Generation: lr, iterations, blur, BNS, weight decay, temperature, beta.
GENERATION = {
    ("mnist", "model-inversion"): (0.01, 3_000, 0.001, 1.0, 0.001, 2.0, None),
    ("mnist", "data-impression"): (0.01, 3_000, 0.001, 1.0, 0.001, 20.0, 10.0),
    ("cifar10", "model-inversion"): (0.1, 500, 0.01, 0.0, 0.0001, 2.0, None),
    ("cifar10", "data-impression"): (0.1, 500, 0.01, 0.0, 0.0001, 2.0, 10.0),
    ("core50", "model-inversion"): (0.1, 500, 0.001, 10.0, 0.0001, 2.0, None),
    ("core50", "data-impression"): (0.1, 500, 0.001, 10.0, 0.0001, 2.0, 0.1),
}


@pytest.mark.parametrize("make", [paper, reference])
@pytest.mark.parametrize("strategy", PAPER_STRATEGIES)
@pytest.mark.parametrize("dataset", DISTILLATION)
def test_every_row_of_appendix_b(make, dataset, strategy):
    built = make(PROFILES[dataset], strategy, real_data=DATA).build()
    assert make(profile(image_shape=(2, 5, 5)), strategy, dataset=dataset, real_data=DATA).build().loss == built.loss
    training = built.training
    assert (training.learning_rate, training.iterations, training.batch_size) == DISTILLATION[dataset]
    assert (training.optimizer, training.momentum, training.schedule) == ("sgd", 0.0, "constant")
    whole = (make, dataset, strategy) == (reference, "mnist", "auxiliary")  # all of Fashion-MNIST
    assert built.buffer.size == (60_000 if whole else 5_000)
    assert built.loss.cross_entropy == 1.0
    assert exml.Strategy.from_yaml(built.to_yaml()) == built
    if (dataset, strategy) not in GENERATION:
        assert built.prior is None
        return
    rate, iterations, blur, statistics, decay, temperature, beta = GENERATION[dataset, strategy]
    made = built.generator
    assert (made.learning_rate, made.iterations, made.temperature) == (rate, iterations, temperature)
    assert beta is None or made.beta == beta
    weights = {type(prior).__name__: prior.weight for prior in built.prior.priors}
    expected = {"L2Norm": decay, "GaussianBlur": blur, "BatchNormStatistics": statistics}
    assert weights == {name: weight for name, weight in expected.items() if weight}


@pytest.mark.parametrize("make", [paper, reference])
def test_what_stands_in_for_the_data(make):
    """Sec. 5: Fashion-MNIST for MNIST, ImageNet for CIFAR-10 and CORe50, whose images have 128 pixels."""
    sources = {name: make(PROFILES[name], "auxiliary").build().generator.source for name in PROFILES}
    assert sources == {
        "mnist": generators.DatasetImages("fashion-mnist", size=32),
        "cifar10": generators.DatasetImages("imagenet", size=32),
        "core50": generators.DatasetImages("imagenet", size=128),
    }
    loss = make(PROFILES["mnist"], "auxiliary").build().loss
    assert loss.labels == ("given" if make is paper else "target")


def test_mini_batches_of_the_generation():
    sizes = {name: paper(PROFILES[name], "model-inversion").build().generator.batch_size for name in PROFILES}
    assert sizes == {"mnist": 512, "cifar10": 1_024, "core50": 128}


@pytest.mark.parametrize("make", [paper, reference])
def test_images_of_another_shape_and_another_strategy_are_refused_with_what_there_is(make):
    with pytest.raises(SettingError, match=r"1xHxW.*3x32x32.*got 3x64x64.*dataset='mnist'"):
        make(profile(image_shape=(3, 64, 64)), "noise")
    with pytest.raises(SettingError, match="dataset='svhn'; remedy: pass dataset='mnist'"):
        make(PROFILES["mnist"], "noise", dataset="svhn")
    with pytest.raises(SettingError, match="model-inversion, data-impression, auxiliary, replay, noise"):
        make(PROFILES["mnist"], "deep-inversion")


def test_recipes_by_name():
    assert {f"{who}-{strategy}" for who in ("paper", "reference") for strategy in PAPER_STRATEGIES} < set(RECIPES)
    mnist, core50 = PROFILES["mnist"], PROFILES["core50"]
    assert recipe("paper-data-impression", mnist).build() == paper(mnist, "data-impression").build()
    assert recipe("reference-noise", core50).build() == reference(core50, "noise").build()


def test_the_text_and_the_code_differ_where_the_page_says():
    text, code = (make(PROFILES["mnist"], "data-impression").build() for make in (paper, reference))
    assert (text.generator.stop_at, text.generator.clamp, text.generator.classes) == (0.99, None, "known")
    assert (code.generator.stop_at, code.generator.clamp, code.generator.classes) == (None, 3.0, "all")
    assert (type(text.combiner).__name__, type(code.combiner).__name__) == ("ByClass", "SideBySide")
    assert (text.augmentation.parameters, code.generator.augmentation.parameters) == ("image", "batch")
    assert isinstance(reference(PROFILES["mnist"], "noise").build().buffer, buffers.Latest)


@given(budget=st.floats(0.0001, 1), strategy=st.sampled_from([*PAPER_STRATEGIES, "exml"]))
def test_a_budget_scales_steps_by_itself_and_images_and_their_steps_by_its_root(budget, strategy):
    whole = recipe("exml" if strategy == "exml" else f"paper-{strategy}", PROFILES["mnist"], real_data=DATA).build()
    less = at_budget(whole, budget)
    assert less.training.iterations == max(1, round(budget * whole.training.iterations))
    assert less.buffer.size == max(10, round(budget**0.5 * whole.buffer.size))
    if hasattr(whole.generator, "iterations"):
        assert less.generator.iterations == max(1, round(budget**0.5 * whole.generator.iterations))
    same = attrs.evolve(less, training=whole.training, buffer=whole.buffer, generator=whole.generator)
    assert same == whole


@given(first=st.floats(0.0001, 1), second=st.floats(0.0001, 1))
def test_a_smaller_budget_is_never_more_work(first, second):
    whole = paper(PROFILES["mnist"], "model-inversion").build()
    small, large = (at_budget(whole, budget) for budget in sorted((first, second)))
    assert small.training.iterations <= large.training.iterations <= whole.training.iterations
    assert small.buffer.size <= large.buffer.size <= whole.buffer.size
    assert at_budget(whole, 1) == whole


def test_a_budget_reaches_what_is_inside_and_leaves_what_is_small():
    inner = generators.ModelInversion(iterations=100)
    start = generators.BufferedImages(first=generators.DataImpression(iterations=64))
    mixed = generators.Mixture((inner, generators.ModelInversion(iterations=400, start=start)), weights=(1, 2))
    whole = recipe("noise", profile()).generator(mixed).buffer(buffers.Reservoir(4, per_experience=1_000)).build()
    less = at_budget(whole, 0.25)
    assert [part.iterations for part in less.generator.generators] == [50, 200]
    assert less.generator.generators[1].start.first.iterations == 32
    assert less.generator.weights == (1, 2)
    assert (less.buffer.size, less.buffer.per_experience) == (4, 500)  # never more than before


@pytest.mark.parametrize("budget", [0, -0.5, 1.5, float("nan")])
def test_a_budget_is_a_share(budget):
    with pytest.raises(SettingError, match="budget > 0 and <= 1"):
        at_budget(recipe("noise", profile()).build(), budget)


def test_priors_of_the_code():
    code = reference(PROFILES["core50"], "model-inversion").build().prior.priors
    assert code == (
        priors.L2Norm(0.0001),
        priors.GaussianBlur(0.001, kernel_size=7, padding="zeros", squared=False),
        priors.BatchNormStatistics(
            10.0, layers="last", statistic="variance", reduction="mean", per="batch", absent="ignore"
        ),
    )


@pytest.mark.parametrize("make", [paper, reference])
@pytest.mark.parametrize("strategy", PAPER_STRATEGIES)
def test_heads_of_tasks_stay_apart_and_are_not_normalized(make, strategy):
    experts = profile(image_shape=PAPER_SHAPES["cifar10"], tasks=True)
    built = make(experts, strategy, real_data=DATA).build()
    assert built.combiner.tasks == experts.tasks
    assert built.normalizer == RawLogits()
    assert built.loss.classes == "seen"
    assert built.training.batch_size == (32 if make is paper else 128)
