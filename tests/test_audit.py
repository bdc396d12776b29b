"""The audit of a target: what a learner would teach for labeled images, and the gap that a student recovered."""

import attrs
import pytest
import torch
from rich.console import Console
from torch import nn

import exml
from exml import runs
from exml.combiners import ByClass, MultiTask, SideBySide
from exml.core.errors import BaselineError
from exml.experts import ExpertStream
from exml.normalizers import CenterLogits, RawLogits
from exml.runs import table
from exml.runs.audit import References, audit, references, target_predictor
from exml.scenarios import load
from tests import tiny

CLASSES = ((0, 1), (1, 3), (1, 2))


@pytest.fixture(autouse=True)
def _scenarios(monkeypatch):
    tiny.register(monkeypatch)


@attrs.frozen
class Doubled:
    """A calibration that depends on its seed."""

    def __call__(self, expert, seed, start=None, /):
        factor = 2 + seed % 7
        return attrs.evolve(expert, module=nn.Sequential(expert.module, _Times(factor)))


class _Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, logits):
        return self.factor * logits


def experts(classes=CLASSES):
    torch.manual_seed(0)
    made = [nn.Sequential(nn.Flatten(), nn.Linear(16, 4)) for _ in classes]
    return [exml.Expert(module, own, (1, 4, 4), outputs=range(4)) for module, own in zip(made, classes, strict=True)]


def images(count=700):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def centered(expert, pixels, factor=1.0):
    own = expert.module(pixels).double()[:, list(expert.classes)] * factor
    return own - own.mean(1, keepdim=True)


@torch.no_grad()
def test_the_target_is_folded_over_the_stream():
    found, pixels = experts(), images()
    strategy = tiny.strategy(combiner=SideBySide(), calibration=Doubled())
    total, count = torch.zeros(len(pixels), 4).double(), torch.zeros(4).double()
    factor = 2 + exml.core.rng.derive_seed(5, "calibration") % 7
    for expert in found:
        before = count > 0
        total[:, before] -= (total[:, before].mean(1, keepdim=True)) if before.any() else 0.0
        own = list(expert.classes)
        value = centered(expert, pixels, factor)
        total[:, own] = (total[:, own] * count[own] + value) / (count[own] + 1)
        count[own] += 1
    scores = target_predictor(strategy, ExpertStream.from_experts(found), 4, 5)(pixels, None)
    torch.testing.assert_close(scores.double(), total, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_target_of_a_copied_first_expert_is_its_own_output():
    found, pixels = experts(((0, 1), (2,))), images(9)
    strategy = tiny.strategy(combiner=SideBySide(calibration=1.0), student="first-expert")
    alone = target_predictor(strategy, ExpertStream.from_experts(found[:1]), 4, 5)(pixels, None)
    torch.testing.assert_close(alone[:, :2], found[0].module(pixels)[:, :2])
    both = target_predictor(strategy, ExpertStream.from_experts(found), 4, 5)(pixels, None)
    torch.testing.assert_close(both[:, :2].double(), centered(found[0], pixels), rtol=1e-4, atol=1e-5)
    assert bool(both[:, 3].isneginf().all())


@torch.no_grad()
def test_a_mean_over_a_batch_is_over_images_of_all_experiences():
    """Images in the order of the scores, as test sets are in the order of their experiences."""
    found, pixels = experts(), images(1024)
    ordered = pixels[centered(found[0], pixels)[:, 0].argsort()]
    own, strategy = found[:1], tiny.strategy(combiner=SideBySide(calibration=1.0))
    scores = target_predictor(strategy, ExpertStream.from_experts(own), 4, 0)(ordered, None)[:, :2]
    wanted = centered(own[0], ordered)
    torch.testing.assert_close(scores.double(), wanted - wanted.mean(0), rtol=0, atol=0.03)
    assert float((wanted[:512].mean(0) - wanted.mean(0)).abs().max()) > 0.05


def test_labels_of_images_are_not_read():
    found = ExpertStream.from_experts(experts(((0, 1), (2, 3))))
    predict = target_predictor(tiny.strategy(combiner=ByClass()), found, 4, 0)
    with pytest.raises(BaselineError, match="does not read labels, got ByClass"):
        predict(images(4), None)
    tasks = ((0, 1), (2, 3))
    strategy = tiny.strategy(combiner=MultiTask(tasks), normalizer=RawLogits())
    pixels, told = images(6), torch.tensor([1, 0, 1, 0, 0, 1])
    scores = target_predictor(strategy, found, 4, 0, tasks=tasks)(pixels, told)
    for image, task, row in zip(pixels, told.tolist(), scores, strict=True):
        own = list(tasks[task])
        torch.testing.assert_close(row[own], found[task].module(image[None])[0, own])
        assert int(row.isneginf().sum()) == 2


def test_the_gap_is_between_the_best_ensemble_and_the_oracle():
    scenario = load("tiny-nc", 0)
    stream = scenario.train_experts(0)
    known = references(stream, scenario, torch.device("cpu"))
    rows = [
        runs.evaluation.evaluate_baseline(ensemble, stream, scenario).stream
        for ensemble in runs.evaluation.ENSEMBLES.values()
    ]
    assert known.ensemble >= max(rows)
    assert known.oracle == runs.evaluation.evaluate_baseline(exml.baselines.Oracle(), stream, scenario).stream
    strategy = tiny.strategy(combiner=SideBySide(), normalizer=CenterLogits())
    settings = {"seed": 0, "device": torch.device("cpu")}
    found = audit(strategy, stream, scenario, 0.7, References("a", 0.6, 0.8), **settings)
    assert found.recovered_gap == pytest.approx(0.5)
    assert found.target == pytest.approx(rows[0])  # two disjoint experts, centered
    assert found.distance == pytest.approx(rows[0] - 0.7)
    for oracle in (None, 0.605):
        assert audit(strategy, stream, scenario, 0.7, References("a", 0.6, oracle), **settings).recovered_gap is None
    unread = audit(attrs.evolve(strategy, combiner=ByClass()), stream, scenario, 0.7, known, **settings)
    assert unread.target is None
    assert unread.distance is None
    assert "labels" in unread.reason


def test_a_run_keeps_its_audit_and_its_agreement_apart_from_its_seconds(tmp_path):
    strategies = {"one": tiny.strategy(combiner=SideBySide()), "two": tiny.strategy(combiner=ByClass())}
    result = tiny.run("tiny-nc", strategies, tmp_path / "run")
    one, _ = result.strategies
    assert runs.Result.load(tmp_path / "run" / "result.json") == result
    for row in result.strategies:
        assert row.agreement is not None
        assert row.audit is not None
        assert row.audit.student == row.stream_accuracy[-1]
        assert row.audit.needs == "labeled images and all experts"
        assert row.audit.seconds > 0
    said = "\n".join(table.audit_lines(result))
    assert "Diagnosis with labeled images and all experts" in said
    assert f"one: target {100 * one.audit.target:.1f}" in said
    assert "two: no target, because it needs a combiner that does not read labels" in said
    assert tiny.run("tiny-ni", {"one": strategies["one"]}, tmp_path / "ni").strategies[0].audit.recovered_gap is None


def test_labeled_images_show_the_target_of_a_student_and_all_of_its_experts(tmp_path):
    found = experts(((0, 1), (2, 3)))
    strategy = tiny.strategy(combiner=SideBySide())
    student = exml.learn(found, student="conv-net:widths=[4]", strategy=strategy, seed=3, out=tmp_path / "out")
    samples = exml.Samples.of(images(300), torch.arange(300) % 4)
    rows = student.evaluate(samples, found).classifiers
    assert [row.role for row in rows] == ["student", *["expert"] * 2, *["ensemble"] * 3, "target"]
    predict = target_predictor(strategy, ExpertStream.from_experts(found), 4, 3)
    assert rows[-1].accuracy == runs.evaluation.accuracy(predict, samples)
    assert "target of the student" in _text(runs.assessment_table(student.evaluate(samples, found)))
    assert student.evaluate(samples, found[:1]).classifiers[-1].role == "expert"
    unread = attrs.evolve(strategy, combiner=ByClass())
    assert runs.assess(student.expert, samples, found, strategy=unread).classifiers[-1].role == "ensemble"


def _text(renderable):
    console = Console(width=100)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()
