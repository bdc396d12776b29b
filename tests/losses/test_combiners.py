"""The combiners against their definitions, written out sample by sample in plain Python."""

import math

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exml.combiners import ByClass, MultiTask, ProductOfExperts, SideBySide
from exml.core.errors import SettingError, ShapeError
from exml.core.samples import Samples
from exml.core.targets import TeacherLogits
from exml.testing import check_component

CLASSES = 5
TASKS = ((0, 1), (2, 3), (4,))
COMBINERS = [ByClass(), ByClass("present"), SideBySide(), SideBySide(0.4), ProductOfExperts(), MultiTask(TASKS)]


def teacher(known, present=None):
    masks = []
    for ids in (known, known if present is None else present):
        mask = torch.zeros(CLASSES, dtype=torch.bool)
        mask[list(ids)] = True
        masks.append(mask)
    logits = torch.randn(7, CLASSES, dtype=torch.float64)
    return TeacherLogits(torch.where(masks[1], logits, 0), *masks)


def samples(labels, tasks=None):
    labels = torch.tensor(labels)
    tasks = torch.full_like(labels, -1) if tasks is None else torch.tensor(tasks)
    return Samples(torch.zeros(len(labels), 1, 2, 2), labels, tasks, torch.ones_like(labels))


def ids(mask):
    return {index for index, there in enumerate(mask.tolist()) if there}


def eq8(previous, expert, label, units="known"):
    """Eq. 8 for one sample: the teachers in use and their classes, as ``[(logits, classes)]``."""
    return [(side.logits, ids(getattr(side, units))) for side in (previous, expert) if label in ids(side.known)]


def check(target, rows, combine, candidates):
    """``rows[i]`` lists the teachers in use for sample i and their classes; ``combine`` merges their values."""
    for index, speakers in enumerate(rows):
        for name in range(CLASSES):
            values = [logits[index, name].item() for logits, classes in speakers if name in classes]
            assert target.defined[index, name].item() is bool(values)
            assert target.logits[index, name].item() == pytest.approx(combine(values) if values else 0.0, abs=1e-12)
        assert ids(target.candidates[index]) == set(candidates[index])


def mean(values):
    return math.fsum(values) / len(values)


CASES = {
    "first experience": ((), (0, 1)),
    "new classes": ((0, 1), (2, 3)),
    "overlap": ((0, 1, 2), (2, 3)),
    "same classes": ((1, 3), (1, 3)),
    "expert within": ((0, 1, 2, 3, 4), (3,)),
}


@pytest.mark.parametrize("case", CASES)
class TestOracles:
    labels = (0, 1, 2, 3, 4, 2, 3)

    @pytest.mark.parametrize("units", ["known", "present"])
    def test_by_class_is_eq_8(self, case, units):
        before, now = CASES[case]
        previous, expert = teacher(before, range(CLASSES) if before else ()), teacher(now, {*now, 4})
        target = ByClass(units)(previous, expert, samples(self.labels))
        rows = [eq8(previous, expert, label, units) for label in self.labels]
        check(target, rows, mean, [{*before, *now}] * 7)

    def test_side_by_side(self, case):
        before, now = CASES[case]
        previous, expert = teacher(before, range(CLASSES)), teacher(now, range(CLASSES))
        target = SideBySide()(previous, expert, samples(self.labels))
        check(target, [[(previous.logits, set(before)), (expert.logits, set(now))]] * 7, mean, [{*before, *now}] * 7)

    def test_product_of_experts(self, case):
        before, now = CASES[case]
        previous, expert = teacher(before, range(CLASSES)), teacher(now, {*now, 0})
        target = ProductOfExperts()(previous, expert, samples(self.labels))
        # An untrained student has logits too, but contributes nothing.
        speakers = [(previous.logits, set(range(CLASSES)) if before else set()), (expert.logits, {*now, 0})]
        check(target, [speakers] * 7, math.fsum, [{*before, *now}] * 7)

    def test_multi_task(self, case):
        before, now = CASES[case]
        previous, expert = teacher(before), teacher(now)
        tasks = tuple(next(task for task, classes in enumerate(TASKS) if label in classes) for label in self.labels)
        target = MultiTask(TASKS)(previous, expert, samples(self.labels, tasks))
        own = [set(TASKS[task]) for task in tasks]
        rows = [
            [(logits, classes & mine) for logits, classes in eq8(previous, expert, label)]
            for label, mine in zip(self.labels, own, strict=True)
        ]
        check(target, rows, mean, [{*before, *now} & mine for mine in own])


def test_product_of_experts_is_the_product_of_probabilities():
    previous, expert = teacher((0, 1), range(CLASSES)), teacher((2, 3), range(CLASSES))
    target = ProductOfExperts()(previous, expert, samples([0] * 7))
    product = previous.logits.softmax(1) * expert.logits.softmax(1)
    torch.testing.assert_close(target.logits.softmax(1), product / product.sum(1, keepdim=True))


def test_multi_task_cuts_down_any_combiner():
    previous, expert = teacher((0, 1), range(CLASSES)), teacher((2, 3), range(CLASSES))
    stream = samples([0, 1, 2, 3, 0, 1, 2], [0, 0, 1, 1, 0, 0, 1])
    whole = ProductOfExperts()(previous, expert, stream)
    target = MultiTask(TASKS, ProductOfExperts())(previous, expert, stream)
    torch.testing.assert_close(target.logits[:2, :2], whole.logits[:2, :2])
    assert [ids(row) for row in target.defined] == [{0, 1}, {0, 1}, {2, 3}, {2, 3}, {0, 1}, {0, 1}, {2, 3}]


@given(
    before=st.sets(st.integers(0, CLASSES - 1)),
    now=st.sets(st.integers(0, CLASSES - 1), min_size=1),
    labels=st.lists(st.integers(0, CLASSES - 1), min_size=7, max_size=7),
)
def test_every_target_is_zero_where_it_is_not_defined(before, now, labels):
    previous, expert = teacher(before, range(CLASSES)), teacher(now, range(CLASSES))
    tasks = [label // 2 for label in labels]
    for combiner in COMBINERS:
        target = combiner(previous, expert, samples(labels, tasks))
        assert target.logits.masked_select(~target.defined).abs().sum() == 0
        assert target.candidates.shape == target.defined.shape == target.logits.shape == (7, CLASSES)
        for row, label in zip(target.candidates, labels, strict=True):
            assert (label in ids(row)) == (label in before | now)


@pytest.mark.parametrize("combiner", COMBINERS[:-1], ids=repr)
def test_reads_nothing_back_from_the_device(combiner):
    """Meta tensors have shapes but no values, so reading a value fails."""
    sides = [TeacherLogits(*(part.to("meta") for part in (t.logits, t.known, t.present))) for t in [teacher((1,))] * 2]
    assert combiner(*sides, samples([0] * 7).to("meta")).logits.shape == (7, CLASSES)


@pytest.mark.parametrize("task", [-1, 3])
def test_a_sample_without_a_task_is_an_error(task):
    stream = samples([0] * 7, [0, 0, 0, task, 0, 0, 0])
    with pytest.raises(ShapeError, match=r"task labels 0 to 2, got .*" + str(task)):
        MultiTask(TASKS)(teacher(()), teacher((0, 1)), stream)


def test_tasks_wider_than_the_logits_are_an_error():
    with pytest.raises(ShapeError, match="class ids below 5, the width of the logits, got 9"):
        MultiTask(((0, 1), (2, 9)))(teacher(()), teacher((0, 1)), samples([0] * 7, [0] * 7))


@pytest.mark.parametrize("tasks", [(), 5, (0, 1), ((0,), ()), ((0, -1),), ((0, 1.5),), ((0, True),)], ids=str)
def test_tasks_that_are_none(tasks):
    with pytest.raises(SettingError, match=r"MultiTask\.tasks"):
        MultiTask(tasks)


def test_multi_task_is_a_component_with_tuples_of_its_tasks():
    check_component(MultiTask(TASKS), "combiner")
    assert MultiTask([[0, 1], [2]]) == MultiTask(((0, 1), (2,)))


@pytest.fixture
def rows():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def test_calibration_subtracts_the_mean_of_each_class_of_the_expert(rows):
    previous = TeacherLogits(rows + 1, torch.tensor([True, True, False, False]), torch.ones(4, dtype=torch.bool))
    expert = TeacherLogits(rows * 3, torch.tensor([False, False, True, True]), torch.ones(4, dtype=torch.bool))
    target = SideBySide(calibration=0.4)(previous, expert, samples((2,) * 6)).logits.numpy()
    own = 3 * rows.double().numpy()[:, 2:]
    np.testing.assert_allclose(target[:, :2], rows.numpy()[:, :2] + 1, rtol=1e-6)
    np.testing.assert_allclose(target[:, 2:], own - 0.4 * own.mean(axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("calibration", [0.0, 0.4])
def test_the_scale_of_the_expert_is_that_of_the_previous_student(rows, calibration):
    everything = torch.ones(4, dtype=torch.bool)
    previous = TeacherLogits(rows + 1, torch.tensor([True, True, False, False]), everything)
    expert = TeacherLogits(rows * 30, torch.tensor([False, False, True, False]), everything)
    combiner = SideBySide(calibration, scale="previous")
    target = combiner(previous, expert, samples((2,) * 6)).logits.double().numpy()
    np.testing.assert_allclose(target[:, :2], rows.numpy()[:, :2] + 1, rtol=1e-6)
    assert (target[:, 2] ** 2).mean() == pytest.approx((target[:, :2] ** 2).mean(), rel=1e-4)
    unscaled = SideBySide(calibration)(previous, expert, samples((2,) * 6)).logits.double().numpy()
    ratios = target[:, 2] / unscaled[:, 2]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)
    assert 0 < ratios[0] < 1


def test_zero_logits_have_no_scale(rows):
    """Without a previous student, or with zero logits on one side, logits stay unchanged and finite."""
    head = torch.tensor([True, True, False, False])
    expert = TeacherLogits(rows, ~head, torch.ones(4, dtype=torch.bool))
    combiner, labels = SideBySide(scale="previous"), samples((2,) * 6)
    for previous in (TeacherLogits.none(rows), TeacherLogits(torch.zeros(6, 4), head, head)):
        assert torch.equal(combiner(previous, expert, labels).logits[:, 2:], rows[:, 2:])
    mute = attrs.evolve(expert, logits=torch.zeros(6, 4))
    assert not combiner(TeacherLogits(rows, head, head), mute, labels).logits[:, 2:].any()


@pytest.mark.parametrize("experts", [1, 2, 5])
@pytest.mark.parametrize("combiner", [ByClass(), SideBySide(), MultiTask((tuple(range(CLASSES)),))], ids=repr)
def test_by_counts_each_expert_of_a_class_weighs_the_same(combiner, experts):
    rows = torch.randn(experts, CLASSES, dtype=torch.float64)
    known = torch.tensor([True, True, True, False, False])
    labels = samples((0, 1, 2), (0, 0, 0))
    mean, before = rows[0].where(known, 0), known.int()
    for row in rows[1:]:
        previous = TeacherLogits(mean.expand(3, -1), known, known, before)
        target = combiner(previous, TeacherLogits(row.expand(3, -1), known, known), labels)
        mean, before = target.logits[0], before + known
    assert mean.tolist() == pytest.approx(rows.mean(0).where(known, 0).tolist())


@pytest.mark.parametrize("make", [ByClass, SideBySide])
def test_the_paper_averages_the_last_expert_with_one_half(make):
    known = torch.ones(CLASSES, dtype=torch.bool)
    previous, expert = (TeacherLogits(torch.randn(2, CLASSES), known, known, known * 4) for _ in range(2))
    target = make(overlap="half")(previous, expert, samples((0, 1)))
    torch.testing.assert_close(target.logits, (previous.logits + expert.logits) / 2, rtol=0, atol=0)


@pytest.mark.parametrize("make", [ByClass, SideBySide])
def test_the_weights_do_not_matter_without_shared_classes(make):
    previous, expert = teacher((0, 1)), teacher((2, 3))
    given = samples((0, 1, 2, 3, 0, 1, 2))
    targets = [make(overlap=overlap)(previous, expert, given).logits for overlap in ("count", "half")]
    assert torch.equal(*targets)
