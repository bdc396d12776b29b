"""The formula, against numbers worked out by hand, and how it grows."""

import math

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from exml.buffers import Cumulative, Reservoir, Unbounded
from exml.core.errors import BufferSizeError, SettingError
from exml.costs import (
    CostModel,
    DistillationRates,
    GenerationRates,
    GenerationSizes,
    Line,
    Link,
    Rates,
    Sizes,
    counts,
    leaves,
)
from exml.engine import Training
from exml.generators import BufferedImages, GaussianNoise, Mixture, ModelInversion, ProceduralImages
from exml.priors import BatchNormStatistics
from tests import tiny

LINK = Link(latency=0.5, bytes_per_second=100.0)
RATES = Rates(
    generation=(GenerationRates(call=Line(1.0, 0.25), step=Line(0.5, 0.125)),),
    first=DistillationRates(setup=2.0, view=0.5, step=Line(0.25, 0.0625)),
    later=DistillationRates(setup=4.0, view=1.0, step=Line(0.25, 0.125)),
    experience=8.0,
    update=0.5,
    link=LINK,
)
SIZES = Sizes(
    image=100,
    sample=124,
    classes=4,
    student=1_000,
    tensors=6,
    parameters=800,
    norms=2,
    norm_channels=6,
    expert=500,
    expert_channels=5,
    generation=(GenerationSizes(memory=Line(500.0, 1_000.0)),),
    activations=300.0,
)


def strategy(**changes):
    parts = {
        "generator": ModelInversion(iterations=10, batch_size=8),
        "buffer": Cumulative(12),
        "training": Training(iterations=20, batch_size=8, learning_rate=0.1, momentum=0.9),
        "prior": BatchNormStatistics(1.0),
    }
    return tiny.strategy(**{**parts, **changes})


def test_an_experience_by_hand():
    model = CostModel(strategy(), RATES, SIZES)
    # 12 images: mini-batches of 8 and 4.
    assert model.generation(12) == (1 + 12 * 0.25) + 10 * ((0.5 + 8 * 0.125) + (0.5 + 4 * 0.125))
    assert model.distillation(12, 1) == 2 + 20 * (0.25 + 8 * 0.0625)
    assert model.distillation(12, 2) == 4 + 20 * (0.25 + 8 * 0.125)
    cost = model.cost(3)
    assert [experience.images for experience in cost.experiences] == [12, 6, 4]
    assert [experience.held for experience in cost.experiences] == [12, 12, 12]
    assert [experience.other for experience in cost.experiences] == [8 + 6, 8 + 9, 8 + 8]
    assert cost.seconds == sum(cost.of(i) for i in (1, 2, 3)) == cost.generation + cost.distillation + cost.other
    assert cost.of(2) == model.generation(6) + model.distillation(12, 2) + 17


@pytest.mark.parametrize("buffer", [Cumulative(12), Reservoir(7, per_experience=5), Unbounded(2)])
def test_every_experience_of_a_stream_is_the_one_worked_out_by_itself(buffer):
    model = CostModel(strategy(buffer=buffer), RATES, SIZES)
    before = 0
    for number, found in enumerate(model.cost(9).experiences, 1):
        assert found.images == buffer.share(number)
        assert found.generation == model.generation(found.images, number)
        assert found.distillation == model.distillation(found.held, number)
        assert found.other == model.other(found.images, before)
        assert found.memory == model.memory(found.images, before, found.held, number)
        assert found.checkpoint == model.checkpoint(found.held, number)
        before = found.held


def test_two_ranks_by_hand():
    two = CostModel(strategy(), RATES, SIZES, ranks=2)
    exchange = 0.5 + 5 * 8 / 100  # mean and variance of five channels, from one other rank
    # 11 images: mini-batches of 8 and 3, of which the fuller rank has 4 and 2.
    assert two.generation(11) == pytest.approx(
        (1 + 11 * 0.25)
        + 10 * ((0.5 + 4 * 0.125) + exchange + (0.5 + 2 * 0.125) + exchange)
        + (0.5 + 4 * 100 / 100)
        + (0.5 + 2 * 100 / 100)
    )
    assert two.other(6, 12) == pytest.approx(8 + 9 + 0.05 + (6 * 0.5 + 10) + (4 * 0.5 + 6 * 124 / 100))
    gradient = 0.5 + 800 / 100
    norms = 2 * ((0.5 + 4 * 2 * 3 / 100) + (0.5 + 4 * 2 * 3 / 100))
    assert two.distillation(12, 2) == pytest.approx(4 + 20 * (0.25 + 4 * 0.125 + gradient + norms))
    without = CostModel(strategy(prior=None), RATES, attrs.evolve(SIZES, norms=0), ranks=2)
    assert without.generation(8) == 1 + 8 * 0.25 + 10 * (0.5 + 4 * 0.125) + 0.5 + 4
    assert without.distillation(12, 2) == pytest.approx(4 + 20 * (0.25 + 4 * 0.125 + gradient))


def test_collectives():
    """A ring sends (R - 1)/R of the bytes twice; latencies are those of a tree."""
    assert LINK.add(1_000, 8) == pytest.approx(3 * 0.5 + 2 * 7 / 8 * 10)
    assert LINK.gather(1_000, 8) == pytest.approx(3 * 0.5 + 7 * 10)
    assert LINK.share(1_000, 8, tensors=3) == pytest.approx(3 * (3 * 0.5) + 10)
    assert LINK.share(1_000, 1, tensors=3) == LINK.add(1_000, 1) == LINK.gather(1_000, 1) == 0
    assert Link().add(10**12, 64) == 0


def test_a_bank_of_views():
    training = Training(iterations=20, batch_size=8, learning_rate=0.1, views=3)
    model = CostModel(strategy(training=training), RATES, SIZES)
    assert model.distillation(12, 2) == 4 + 3 * 12 * 1.0 + 20 * (0.25 + 8 * 0.125)
    images, logits, flags, labels = torch.zeros(36, 25), torch.zeros(36, 4), torch.zeros(36, 8).bool(), torch.zeros(36)
    assert model.bank(12) == sum(part.nbytes for part in (images, logits, flags, labels.long()))


def test_memory_by_hand():
    model = CostModel(strategy(), RATES, SIZES)
    first, second = model.memory(12, 0, 12, 1), model.memory(6, 12, 12, 2)
    assert first.models == second.models == 1_000 + 2 * 500
    # The generator's mini-batch of 8, and 4 images that wait.
    assert first.generation == 500 + 8 * 1_000 + 4 * 100
    assert second.generation == 12 * 124 + 500 + 6 * 1_000
    assert (first.update, second.update) == (12 * 124, (12 + 6 + 6 + 12) * 124)
    # The lowered expert; gradient and momentum; the buffer; activations.
    assert first.distillation == 500 + 2 * 800 + 12 * 124 + 8 * 300
    # And the previous student: its state, its module and that lowered; the new images.
    assert second.distillation == 500 + 3 * 1_000 + 2 * 800 + (12 + 6) * 124 + 8 * 300
    assert first.peak == first.models + first.generation
    cost = model.cost(2)
    assert cost.peak_bytes == max(first.peak, second.peak)
    assert cost.buffer_bytes == 12 * 124
    assert cost.checkpoint_bytes == 12 * 124 + 2 * 1_000 + 800


@pytest.mark.parametrize(
    ("changes", "slots"),
    [({"optimizer": "sgd"}, 0), ({"optimizer": "sgd", "momentum": 0.9}, 1), ({"optimizer": "adam"}, 2)],
)
def test_slots_are_those_of_the_optimizer(changes, slots):
    training = Training(iterations=1, batch_size=8, learning_rate=0.1, **changes)
    student = nn.Linear(100, 2, bias=False)
    optimizer = training.make_optimizer(student)
    student(torch.ones(1, 100)).sum().backward()
    optimizer.step()
    kept = [value for value in optimizer.state[student.weight].values() if torch.is_tensor(value) and value.ndim]
    held = sum(value.nbytes for value in kept)
    assert held == slots * 800
    memory = CostModel(strategy(training=training), RATES, SIZES).memory(12, 0, 12, 1)
    assert memory.distillation == 500 + 800 + held + 12 * 124 + 8 * 300


def test_the_first_expert_as_the_student_is_not_distilled():
    model = CostModel(strategy(student="first-expert"), RATES, SIZES)
    assert model.distillation(12, 1) == 0
    assert model.memory(12, 0, 12, 1).distillation == 12 * 124
    assert model.distillation(12, 2) == 4 + 20 * (0.25 + 8 * 0.125)
    reset = CostModel(strategy(student="reset"), RATES, SIZES)
    assert reset.memory(12, 0, 12, 1).models == 2 * 1_000 + 2 * 500


def test_a_generator_of_several_parts():
    mixture = Mixture((ModelInversion(iterations=4, start=ProceduralImages()), GaussianNoise()), weights=(3, 1))
    assert leaves(mixture) == (ModelInversion(iterations=4), ProceduralImages(), GaussianNoise())
    assert counts(mixture, 10, 1) == (8, 8, 2)
    warm = ModelInversion(iterations=4, start=BufferedImages(first=ProceduralImages()))
    assert leaves(warm) == (ModelInversion(iterations=4), BufferedImages(), ProceduralImages())
    assert (counts(warm, 10, 1), counts(warm, 10, 2)) == ((10, 0, 10), (10, 10, 0))
    rates = attrs.evolve(RATES, generation=tuple(GenerationRates(call=Line(0, each)) for each in (1, 10, 100)))
    model = CostModel(strategy(generator=warm), rates, attrs.evolve(SIZES, generation=3 * SIZES.generation))
    assert (model.generation(10, 1), model.generation(10, 2)) == (10 + 1_000, 10 + 100)


def test_the_sum_of_the_shares_is_logarithmic():
    """Σ N/i is N (ln E + γ), but for the rounding down."""
    rates = attrs.evolve(RATES, generation=(GenerationRates(call=Line(0.0, 1.0)),), first=RATES.later)
    sizes, experts, size = SIZES, 1_000, 10**6
    cost = CostModel(tiny.strategy(buffer=Cumulative(size)), rates, sizes).cost(experts)
    expected = size * (math.log(experts) + 0.5772156649 + 1 / (2 * experts))
    assert cost.generation == pytest.approx(expected, rel=1e-3)
    assert cost.distillation == experts * cost.experiences[0].distillation


def test_a_buffer_too_small_for_the_stream():
    with pytest.raises(BufferSizeError, match="at least 5001 samples"):
        CostModel(strategy(buffer=Cumulative(5_000)), RATES, SIZES).cost(5_001)
    with pytest.raises(SettingError, match=r"CostModel\.ranks"):
        CostModel(strategy(), RATES, SIZES, ranks=0)


def test_what_is_held():
    for buffer, held in ((Unbounded(5), [5, 10, 15]), (Reservoir(7, per_experience=5), [5, 7, 7])):
        cost = CostModel(strategy(buffer=buffer), RATES, SIZES).cost(3)
        assert [experience.held for experience in cost.experiences] == held
        memory, draws = None, torch.Generator()
        for experience, wanted in enumerate(held, 1):
            memory = buffer(memory, tiny.blobs(2, 0)[:5].of_experience(experience), draws)
            assert len(memory) == wanted


SETTINGS = {
    "experts": st.integers(1, 12),
    "size": st.integers(20, 60),
    "iterations": st.integers(1, 9),
    "batch": st.integers(1, 16),
    "views": st.integers(0, 3),
}


def predicted(experts, size, iterations, batch, views, ranks=1, link=LINK):
    model = CostModel(
        strategy(
            generator=ModelInversion(iterations=iterations, batch_size=batch),
            buffer=Cumulative(size),
            training=Training(iterations=iterations, batch_size=batch, learning_rate=0.1, views=views),
        ),
        attrs.evolve(RATES, link=link),
        SIZES,
        ranks,
    )
    return model.cost(experts)


@given(st.sampled_from(["experts", "size", "iterations"]), st.fixed_dictionaries(SETTINGS))
def test_more_of_anything_costs_more(name, settings):
    less, more = predicted(**settings), predicted(**{**settings, name: settings[name] + 1})
    assert more.seconds > less.seconds
    assert more.peak_bytes >= less.peak_bytes
    assert more.checkpoint_bytes >= less.checkpoint_bytes


@given(st.fixed_dictionaries(SETTINGS), st.integers(1, 70))
def test_ranks_that_speak_for_nothing_save_time(settings, ranks):
    settings["batch"] = 80
    fewer, more = (predicted(**settings, ranks=count, link=Link()) for count in (ranks, ranks + 1))
    assert more.generation <= fewer.generation
    assert more.distillation <= fewer.distillation
    # With as many ranks as images in a mini-batch, of which there are at most 60, the end of generation is reached.
    end, beyond = (predicted(**settings, ranks=count, link=Link()) for count in (60, 61))
    assert beyond.generation == end.generation


@given(st.fixed_dictionaries(SETTINGS), st.integers(1, 35))
def test_speaking_costs_more_the_more_there_are(settings, ranks):
    settings["batch"] = 80
    slow = attrs.evolve(LINK, latency=1e6)
    fewer, more = (predicted(**settings, ranks=count, link=slow) for count in (ranks, 2 * ranks))
    assert more.seconds > fewer.seconds


def test_more_ranks_than_samples_are_refused():
    """As a learner refuses them."""
    with pytest.raises(SettingError, match="at most 8 ranks"):
        CostModel(strategy(), RATES, SIZES, ranks=9).cost(2)
    assert CostModel(strategy(), RATES, SIZES, ranks=8).cost(2).ranks == 8
