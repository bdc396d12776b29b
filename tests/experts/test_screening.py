"""Screening: the figures against their definitions, and the judgment of made experts."""

import math

import attrs
import numpy as np
import pytest
import torch

from exml.core.errors import NonFiniteError
from exml.experts.screening import Observation, contradict, copies, screen
from exml.learning.screening import shared_images

FAMILIES, IMAGES, CLASSES = 3, 60, 6
SOURCE = torch.randn(FAMILIES, IMAGES, CLASSES, generator=torch.Generator().manual_seed(0))


def sound(index=0, classes=tuple(range(CLASSES)), scale=3.0, noise=0.8):
    """An expert that sees the same in the images as the others, with errors and a scale of its own."""
    own = torch.randn(SOURCE.shape, generator=torch.Generator().manual_seed(index + 1))
    return Observation(f"e{index}", torch.tensor(classes), (scale * (SOURCE + noise * own))[..., list(classes)])


def change(how, index=9):
    expert = sound(index)
    return attrs.evolve(expert, logits=how(expert.logits.clone()))


def add(label, value):
    def how(logits):
        logits[..., label] += value
        return logits

    return how


ALONE = {
    "huge head": (lambda z: z * 1e4, "above 1e"),
    "tiny head": (lambda z: z * 1e-4, "below 0.003"),
    "constant": (lambda z: torch.zeros_like(z) + torch.tensor([5.0, 0, 0, 0, 0, 0]), "depend on the image"),
    "zero": (torch.zeros_like, "below 0.003"),
    "one class always": (add(0, 1e3), "depend on the image"),
    "one class never": (add(1, -1e3), "depend on the image"),
}
TOGETHER = {
    "permuted": (lambda z: z.roll(1, 2), "contradicts 'e0', 'e1', 'e2'"),
    "inverted": (lambda z: -z, "contradicts"),
    "random labels": (lambda z: 3 * torch.randn(z.shape, generator=torch.Generator().manual_seed(7)), "contradicts"),
    "one class preferred": (add(2, 25.0), "has one label for 100.0% of the images"),
}


@pytest.mark.parametrize("poison", [*ALONE, *TOGETHER])
@pytest.mark.parametrize("position", [0, 2, 4])
def test_a_poisoned_expert_among_sound_ones_is_suspect_and_only_it(poison, position):
    how, reason = {**ALONE, **TOGETHER}[poison]
    experts = [sound(index) for index in range(4)]
    experts.insert(position, change(how))
    found = [screen(expert, experts) for expert in experts]
    assert reason in " ".join(found[position].reasons)
    assert not any(one.reasons or one.doubts for place, one in enumerate(found) if place != position)


@pytest.mark.parametrize("poison", ALONE)
def test_bounds_need_no_other_expert(poison):
    how, reason = ALONE[poison]
    assert reason in " ".join(screen(change(how), []).reasons)


def test_two_experts_that_contradict_each_other_are_undecided():
    one, other = sound(), change(lambda z: z.roll(1, 2))
    for pair in ((one, other), (other, one)):
        found = screen(pair[0], pair)
        assert not found.reasons
        assert f"contradicts {pair[1].name!r}" in found.doubts[0]
        assert "undecided" in found.doubts[0]


@pytest.mark.parametrize("scales", [(1, 1, 1, 1), (0.1, 1, 10, 1), (10, 0.1, 0.1, 10)])
def test_sound_experts_of_any_scale_and_classes_are_silent(scales):
    sets = [(0, 1, 2, 3), (0, 1, 2, 3, 4, 5), (3, 4, 5), (0, 4, 5)]
    experts = [sound(place, *pair) for place, pair in enumerate(zip(sets, scales, strict=True))]
    found = [screen(expert, experts) for expert in experts]
    assert not any(one.reasons or one.doubts for one in found)
    assert all(one.agreement > 0.3 for one in found)


def test_an_unsure_expert_contradicts_nobody():
    """It was trained too briefly; averaged with the others, its small logits do no harm."""
    unsure = change(lambda z: 0.02 * z.roll(1, 2))
    found = screen(unsure, [sound(index) for index in range(3)])
    assert found.agreement < 0.3
    assert found.certainty < 0.1
    assert (found.reasons, found.doubts) == ((), ())


def test_copies_are_one_witness():
    lie = change(lambda z: z.roll(1, 2))
    assert copies(lie, attrs.evolve(lie, name="again", logits=lie.logits * (1 + 1e-6)))
    assert not screen(lie, [attrs.evolve(lie, name="again"), lie]).agreement
    assert not copies(lie, sound())


def test_experts_of_one_class_or_of_none_in_common_are_not_compared():
    single = sound(0, (3,))
    found = screen(single, [sound(1)])
    assert (found.agreement, found.reasons, found.doubts) == (None, (), ())
    assert screen(sound(2, (0, 1)), [sound(3, (2, 3)), sound(4, (1, 4))]).agreement is None


def test_the_figures_are_their_definitions():
    expert, others = sound(0, (0, 1, 2, 4)), [sound(1, (1, 2, 4, 5)), sound(2, (0, 3)), sound(3)]
    found = screen(expert, others)
    rows = expert.logits.double().numpy().reshape(-1, 4)
    rows = rows - rows.mean(1, keepdims=True)
    odds = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    assert found.scale == pytest.approx(math.sqrt((rows**2).mean()))
    assert found.dependence == pytest.approx(math.sqrt(((rows - rows.mean(0)) ** 2).mean()) / found.scale)
    assert found.certainty == pytest.approx(1 + (odds * np.log(odds)).sum(1).mean() / math.log(4))
    assert found.constancy == pytest.approx(np.bincount(rows.argmax(1)).max() / len(rows))

    def agreement(other, shared):
        sides = []
        for one in (expert, other):
            part = one.logits.double().numpy()[..., [one.classes.tolist().index(name) for name in shared]]
            sides.append(part - part.mean(2, keepdims=True))
        each = [
            np.corrcoef(sides[0][family, :, place], sides[1][family, :, place])[0, 1]
            for family in range(FAMILIES)
            for place in range(len(shared))
        ]
        return sum(each) / len(each)

    each = [agreement(others[0], (1, 2, 4)), agreement(others[2], (0, 1, 2, 4))]
    assert found.agreement == pytest.approx(sum(each) / 2)


def test_the_order_of_the_classes_does_not_matter_to_a_contradiction():
    assert contradict(sound(0), change(lambda z: z.roll(1, 2)))
    assert not contradict(sound(0, (1, 3, 5)), sound(1))


def test_nan_is_an_error_that_names_the_expert():
    with pytest.raises(NonFiniteError, match="expert 'e9'"):
        screen(change(lambda z: z * torch.inf), [])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 8), (3, 40, 24), (5, 16, 16)])
def test_all_processes_share_the_images(shape):
    before = torch.random.get_rng_state()
    images = shared_images(shape)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = shared_images.__wrapped__(shape)
    assert all(torch.equal(one, other) for one, other in zip(images, again, strict=True))
    for part in images:
        assert part.shape[1:] == shape
        assert part.min() >= 0
        assert part.max() <= 1
