"""Roles, trees of components, and properties of every part of a tree."""

import attrs
import pytest
import torch

import exml
from exml.core.components import rebuild, uses_real_data, walk
from exml.core.errors import StrategyError
from exml.core.registry import misfit
from exml.generators import AuxiliaryData, BufferedImages, GaussianNoise, InMemory, Mixture, ModelInversion, Replay
from exml.priors import GaussianBlur, L2Norm, Sum, Weighted
from exml.scenarios import ScenarioSource
from tests.helpers import strategy

NOISE, PHOTOS, REAL = GaussianNoise(), exml.generators.PhotoPatches(), ScenarioSource("digits-nc")


def test_walking_visits_every_component_under_its_path():
    tree = strategy(
        generator=Mixture((ModelInversion(start=NOISE), NOISE)),
        prior=Sum((L2Norm(0.1), Weighted(GaussianBlur(0.2), 3.0))),
    )
    found = dict(walk(tree))
    assert found[""] is tree
    assert found["generator.generators[0].start"] is NOISE
    assert found["prior.priors[1].prior"] == GaussianBlur(0.2)
    assert found["training"] == tree.training
    assert all(attrs.has(type(part)) for part in found.values())


def test_rebuilding_changes_inner_components_first():
    def heavier(part):
        return attrs.evolve(part, weight=part.weight + 1) if hasattr(part, "weight") else part

    tree = Sum((L2Norm(0.0), Weighted(L2Norm(1.0), 2.0)))
    assert rebuild(tree, heavier) == Sum((L2Norm(1.0), Weighted(L2Norm(2.0), 3.0)))


def test_rebuilding_without_a_change_gives_the_tree_itself():
    tree = strategy(generator=AuxiliaryData(InMemory(torch.zeros(2, 1, 8, 8))), prior=None)
    assert rebuild(tree, lambda part: part) is tree


@attrs.frozen
class OwnReplay:
    """A replay generator from outside the package."""

    uses_priors = False
    uses_real_data = True

    def __call__(self, expert, size, seed, context=None, /):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("generator", "expected"),
    [
        (NOISE, False),
        (ModelInversion(), False),
        (AuxiliaryData(PHOTOS), False),
        (AuxiliaryData(REAL), True),
        (Replay(InMemory(torch.zeros(2, 1, 8, 8))), True),
        (OwnReplay(), True),
        (ModelInversion(start=OwnReplay()), True),
        (exml.generators.DataImpression(start=AuxiliaryData(REAL)), True),
        (BufferedImages(), False),
        (BufferedImages(first=OwnReplay()), True),
        (Mixture((NOISE, ModelInversion())), False),
        (Mixture((NOISE, Mixture((OwnReplay(), NOISE)))), True),
    ],
    ids=repr,
)
def test_a_generator_uses_real_data_if_a_part_of_it_does(generator, expected):
    assert generator.uses_real_data is expected
    assert uses_real_data(strategy(generator=generator, prior=None)) is expected


def test_a_wrapper_that_denies_its_part_is_found_out():
    @attrs.frozen
    class Wrapper:
        inner: object
        uses_priors = False
        uses_real_data = False

        def __call__(self, expert, size, seed, context=None, /):
            raise NotImplementedError

    assert uses_real_data(Wrapper(Replay(PHOTOS)))


def test_a_generator_that_does_not_say_is_refused():
    @attrs.frozen
    class Silent:
        uses_priors = False

        def __call__(self, expert, size, seed, context=None, /):
            raise NotImplementedError

    assert misfit(Silent(), "generator") == "it has no 'uses_real_data'"
    with pytest.raises(StrategyError, match="no generator, since it has no 'uses_real_data'"):
        strategy(generator=Silent())


@pytest.mark.parametrize(
    ("part", "role", "words"),
    [
        (L2Norm, "prior", "a class"),
        (object(), "normalizer", "no '__call__'"),
        (L2Norm(1.0), "buffer", "no 'share'"),
        (exml.losses.MeanSquaredError(), "combiner", r"\(logits, target, labels\), not \(previous, expert, samples\)"),
    ],
)
def test_a_misfit_names_its_reason(part, role, words):
    with pytest.raises(AssertionError, match=words):
        assert misfit(part, role) is None, misfit(part, role)
