"""Strategies as YAML and JSON, there and back; faults named by their path."""

import json

import attrs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import exml
from exml.augmentation import Augmentation
from exml.combiners import ByClass, MultiTask
from exml.core.errors import ConfigError, SettingError, UnknownNameError
from exml.core.registry import _KINDS, ROLES, _class_fits, class_of, kind_of
from exml.core.serialization import from_plain, to_plain
from exml.generators import AuxiliaryData, DataImpression, Mixture, ModelInversion, PhotoPatches, ProceduralImages
from exml.losses import Distillation
from exml.normalizers import CenterLogits
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm, Sum
from exml.protocols import Generator, Prior


def full(**changes):
    parts = {
        "generator": ModelInversion(iterations=3, start=ProceduralImages(), stop_at=0.99),
        "combiner": ByClass(),
        "buffer": exml.buffers.Cumulative(20),
        "loss": Distillation(cross_entropy=0.5),
        "training": exml.engine.Training(iterations=2, batch_size=4, learning_rate=0.1),
        "normalizer": CenterLogits(),
        "prior": Sum((L2Norm(1e-4), GaussianBlur(0.01), BatchNormStatistics(10.0, layers=("1", "4")))),
        "augmentation": Augmentation.cifar10(),
    }
    return exml.Strategy(**{**parts, **changes})


VARIANTS = [
    full(),
    full(prior=None, augmentation=None, student="reset"),
    full(generator=Mixture((ProceduralImages(), DataImpression(beta=0.1, iterations=1))), prior=None),
    full(prior=BatchNormStatistics(1.0, layers="last")),
    full(combiner=MultiTask(tasks=((0, 1), (2, 3)))),
]


@pytest.mark.parametrize("strategy", VARIANTS)
def test_there_and_back(strategy):
    assert exml.Strategy.from_yaml(strategy.to_yaml()) == strategy
    assert exml.Strategy.from_yaml(strategy.to_json()) == strategy
    assert hash(exml.Strategy.from_dict(strategy.to_dict())) == hash(strategy)
    assert json.loads(strategy.to_json()) == yaml.safe_load(strategy.to_yaml())


@pytest.mark.parametrize("name", ["s.yaml", "s.json"])
def test_files(tmp_path, name):
    full().save(tmp_path / name)
    assert exml.Strategy.load(tmp_path / name) == full()
    assert [file.name for file in tmp_path.iterdir()] == [name]


@given(
    st.builds(
        exml.engine.Training,
        iterations=st.integers(1, 2**24),
        batch_size=st.integers(1, 99),
        learning_rate=st.floats(1e-9, 1e3),
        momentum=st.floats(0, 1),
        clip_norm=st.none() | st.floats(0.1, 9),
        ridge=st.none() | st.floats(1e-6, 9),
        batch_norm=st.sampled_from(["batch", "running"]),
    )
)
def test_numbers_survive(training):
    assert exml.Strategy.from_yaml(full(training=training).to_yaml()).training == training


def broken(change):
    plain = full().to_dict()
    change(plain)
    return plain


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        (lambda p: p["generator"].update(iterationen=3), "generator.iterationen", "one of the keys"),
        (lambda p: p.update(extra=1), "extra", "one of the keys"),
        (lambda p: p.pop("loss"), "loss", "no such key"),
        (lambda p: p["training"].pop("iterations"), "training.iterations", "no such key"),
        (lambda p: p["training"].update(iterations="many"), "training.iterations", "of type int"),
        (lambda p: p["training"].update(iterations=2.5), "training.iterations", "of type int"),
        (lambda p: p["training"].update(iterations=True), "training.iterations", "of type int"),
        (lambda p: p["training"].update(iterations=-1), "training", "an integer >= 1"),
        (lambda p: p["training"].update(optimizer="lion"), "training.optimizer", "'adamw'"),
        (lambda p: p["generator"].update(kind="dream"), "generator", "model-inversion"),
        (lambda p: p.update(generator="procedural"), "generator", "a mapping with its kind"),
        (lambda p: p.update(combiner={"kind": "l2-norm", "weight": 1.0}), "combiner", "a combiner"),
        (lambda p: p["prior"]["priors"][1].update(sigma="wide"), "prior.priors[1].sigma", "of type float"),
        (lambda p: p["prior"].update(priors="none"), "prior.priors", "a list"),
        (lambda p: p["generator"]["start"].update(colour=1), "generator.start.colour", "one of the keys"),
        (lambda p: p.update(kind="l2-norm"), "", "kind 'strategy'"),
    ],
)
def test_faults_are_named_by_their_path(change, path, words):
    with pytest.raises(ConfigError) as caught:
        exml.Strategy.from_dict(broken(change))
    assert caught.value.path == path
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["generator: [", "just words", "- 1", "", "!!python/object:os.system {}"])
def test_what_is_no_strategy_at_all(text):
    with pytest.raises(ConfigError):
        exml.Strategy.from_yaml(text)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="that exists"):
        exml.Strategy.load(tmp_path / "none.yaml")


@exml.component
@attrs.frozen
class DarkCorners:
    """A prior from outside the package."""

    weight: float
    corners: tuple[tuple[int, int], ...] = ((0, 0),)
    reads_activations = False

    def __call__(self, images, activations, /):
        return self.weight * sum(images[:, :, y, x].square().sum() for y, x in self.corners) / len(images)


def test_a_part_from_outside_serialises_after_one_decorator():
    strategy = full(prior=Sum((DarkCorners(2.0, ((0, 0), (-1, -1))), L2Norm(1.0))))
    assert "kind: dark-corners" in strategy.to_yaml()
    assert exml.Strategy.from_yaml(strategy.to_yaml()) == strategy
    assert from_plain(to_plain(DarkCorners(1.0)), Prior) == DarkCorners(1.0)


def test_an_unregistered_part_is_named():
    @attrs.frozen
    class Secret:
        reads_activations = False

        def __call__(self, images, activations, /):
            return images.sum()

    with pytest.raises(UnknownNameError, match=r"got Secret.*@exml\.component"):
        full(prior=Secret()).to_yaml()


def test_registering():
    assert class_of("dark-corners") is DarkCorners
    assert kind_of(DarkCorners) == "dark-corners"
    with pytest.raises(SettingError, match="frozen"):
        exml.component(type("Loose", (), {}))
    with pytest.raises(SettingError, match="an unused kind for Other"):
        exml.component(kind="l2-norm")(attrs.make_class("Other", [], frozen=True))
    with pytest.raises(UnknownNameError, match=r"expected a prior, one of .*l2-norm.* got 'nothing'"):
        class_of("nothing", Prior)


def test_an_unknown_kind_lists_those_of_its_role_and_the_one_meant():
    with pytest.raises(
        ConfigError, match=r"a generator, one of auxiliary-data, .*did you mean 'model-inv.*--import"
    ) as caught:
        exml.Strategy.from_dict(broken(lambda p: p["generator"].update(kind="modelinversion")))
    assert "data-impression" in caught.value.expected
    assert "l2-norm" not in str(caught.value)


def test_a_misplaced_kind_lists_those_of_its_role():
    with pytest.raises(ConfigError, match=r"got 'l2-norm', a prior") as caught:
        exml.Strategy.from_dict(broken(lambda p: p["generator"].update(start={"kind": "l2-norm", "weight": 1.0})))
    assert caught.value.path == "generator.start"
    assert "gaussian-noise" in caught.value.expected
    assert "by-class" not in caught.value.expected


@pytest.mark.parametrize(
    ("role", "kind", "family"),
    [
        ("combiner", "this-process", "sweep backend"),
        ("loss", "ray-cluster", "sweep backend"),
        ("calibration", "local-processes", "sweep backend"),
        ("normalizer", "oracle", "baseline"),
        ("augmentation", "center", "calibration step"),
    ],
)
def test_a_kind_of_another_family_is_refused(role, kind, family):
    import exml.runs.executors

    with pytest.raises(ConfigError, match=f"a {role}, one of .*got '{kind}', a {family}") as caught:
        exml.Strategy.from_dict(broken(lambda p: p.update({role: {"kind": kind}})))
    kinds = caught.value.expected.split("one of ")[1].split(" at ")[0].split(", ")
    assert kinds == sorted(kinds)
    assert not {"this-process", "oracle", "center"} & set(kinds)


def test_every_component_with_a_call_has_one_family():
    import exml.runs.executors  # noqa: F401

    classes = [cls for cls in _KINDS.values() if cls.__module__.startswith("exml.") and "__call__" in vars(cls)]
    families = {cls: [role for role, protocol in ROLES.items() if _class_fits(cls, protocol)] for cls in classes}
    assert {cls.__name__ for cls, roles in families.items() if len(roles) != 1} == {"ExpertTraining"}


def test_a_source_is_found_by_its_protocol():
    plain = to_plain(AuxiliaryData(PhotoPatches()))
    assert from_plain(plain, Generator) == AuxiliaryData(PhotoPatches())
    with pytest.raises(ConfigError, match=r"a source, one of .*photo-patches.*did you mean 'photo") as caught:
        from_plain({**plain, "source": {"kind": "photo-patch"}}, Generator)
    assert caught.value.path == "source"
    assert "gaussian-noise" not in caught.value.expected
