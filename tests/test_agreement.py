"""The agreement of a student with its experts: what is certain of an equal, a permuted, a constant and a blind one."""

import attrs
import pytest
import torch
from rich.console import Console
from torch import nn

from exml import scenarios
from exml.core.errors import ExpertError, StreamError
from exml.core.serialization import from_plain, to_plain
from exml.experts import Expert
from exml.runs import Agreement, agreement, agreement_table


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    """One trained expert on the ten digits."""
    return next(iter(scenarios.load("digits-joint").train_experts(0, tmp_path_factory.mktemp("experts"))))


class Head(nn.Module):
    """Changes the logits of another module."""

    def __init__(self, module, change):
        super().__init__()
        self.module, self.change = module, change

    def forward(self, images):
        return self.change(self.module(images))


def student(expert, change):
    return attrs.evolve(expert, module=Head(expert.module, change), name="student")


def part(expert, classes, name):
    """The expert as if it knew some of its classes."""
    return attrs.evolve(expert, classes=classes, name=name)


def report(student, *experts, **settings):
    return agreement(student, [lambda expert=expert: expert for expert in experts], **settings)


def text(found, width=80):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(agreement_table(found, width))
    return capture.get()


def test_an_expert_agrees_with_itself(expert):
    found = report(expert, expert)
    [row] = found.experts
    assert (row.drawings, row.inversions, row.among_all, row.predicted) == (1, 1, 1, 1)
    assert found.ensemble == found.min_entropy == found.score == found.scale_ratio == 1
    assert row.scale == row.student_scale
    assert abs(sum(label.student for label in found.labels) - 1) < 1e-9
    assert found.warning is None
    assert found.verdict == "The student agrees with its experts on 100 % of fresh images; no label is neglected."
    assert from_plain(to_plain(found), Agreement) == found
    assert all(len(line) <= 80 for line in text(found).splitlines())


def test_the_figures_are_those_of_the_predictions(expert):
    """Nothing but the order of the logits decides, and a permutation without fixed points agrees nowhere."""
    doubled = report(student(expert, lambda logits: 2 * logits), expert)
    assert doubled.score == 1
    assert doubled.experts[0].student_scale == pytest.approx(2 * doubled.experts[0].scale)
    permuted = report(student(expert, lambda logits: logits.roll(1, 1)), expert)
    assert permuted.experts[0].drawings == permuted.experts[0].among_all == permuted.ensemble == 0
    assert permuted.calibration_error == pytest.approx(permuted.confidence, abs=1e-6)
    assert "0 % of that of the experts' mean, below 80 %" in permuted.warning
    assert permuted.warning.endswith("To be safe, keep 'digits-joint-1', which knows all labels.")


def test_experts_who_contradict_each_other_are_no_reason_for_a_warning(expert):
    """Where two experts never agree, their mean loses one of them as well, so the student may."""
    other = attrs.evolve(student(expert, lambda logits: 50 * logits.roll(1, 1)), name="other")
    found = report(expert, expert, other)
    first, second = found.experts
    assert (first.inversions, second.inversions) == (1, 0)
    assert (first.relative, second.relative) == (1, 0)
    assert "'other'" in found.warning
    louder = report(other, expert, other)
    assert louder.experts[0].mean_logits == 0
    assert louder.experts[1].mean_logits > 0.9
    assert [row.relative for row in louder.experts] == [1, 1]
    assert louder.score == 0.5
    assert "'other'" not in (louder.warning or "")
    assert "below" not in (louder.warning or "")
    assert "mean" in text(louder).splitlines()[2]


def test_a_constant_student_neglects_labels(expert):
    found = report(student(expert, lambda logits: 0 * logits + torch.eye(10)[3]), expert)
    assert found.warning is not None
    assert "never predicts '" in found.warning
    assert sum(label.neglected for label in found.labels) > 5
    assert found.labels[3].student == 1
    assert not found.labels[3].neglected
    assert "it neglects '" in text(found).replace("\n", " ")


def test_a_forgotten_expert_is_named(expert):
    lost = torch.tensor([0.0] * 5 + [1e3] * 5)  # the last five are never predicted
    experts = part(expert, (0, 1, 2, 3, 4), "kept"), part(expert, (5, 6, 7, 8, 9), "[b]lost[/b]")
    found = report(student(expert, lambda logits: logits - lost), *experts)
    kept, gone = found.experts
    assert kept.drawings == kept.inversions == kept.predicted == 1
    assert gone.among_all == gone.predicted == 0
    assert found.among_all == kept.among_all / 2
    assert gone.inversions == 1  # among its own classes, nothing was lost
    assert "'[b]lost[/b]'" in found.warning
    assert "[b]lost[/b]" in text(found)


def test_experts_without_a_gradient_are_compared_on_drawings(expert):
    def function(images):
        return expert.logits(torch.from_numpy(images)).numpy()

    blind = Expert.query(function, classes=range(10), image_shape=expert.image_shape, output="logits", name="blind")
    found = report(expert, blind)
    [row] = found.experts
    assert (row.drawings, row.inversions, row.among_all, found.among_all) == (1, None, None, 1)
    assert row.share == 1


def test_the_seed_decides_and_experts_are_left_as_they_were(expert):
    one = report(student(expert, lambda logits: logits.roll(1, 1) + logits), expert, seed=1)
    expert.module.train()
    two = report(student(expert, lambda logits: logits.roll(1, 1) + logits), expert, seed=1)
    other = report(student(expert, lambda logits: logits.roll(1, 1) + logits), expert, seed=2)
    assert all(module.training for module in expert.module.modules())
    expert.module.eval()
    assert one == two
    assert one.experts != other.experts


def test_one_expert_at_a_time(expert):
    loaded = []
    loads = [lambda place=place: loaded.append(place) or part(expert, (place,), str(place)) for place in range(5)]
    found = agreement(expert, loads, images=64)
    assert loaded == [0, 1, 2, 3, 4] * 2
    assert [row.expert for row in found.experts] == ["0", "1", "2", "3", "4"]
    assert found.images == 64 + 5 * 16


def test_what_cannot_be_compared_is_one_error(expert):
    with pytest.raises(StreamError, match="at least one expert"):
        agreement(expert, [])
    with pytest.raises(ExpertError, match="class ids below 5"):
        report(attrs.evolve(expert, classes=range(5), outputs=[*range(5), *[None] * 5]), expert)
