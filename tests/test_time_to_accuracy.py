"""The straightforward Algorithm 1 is the paper's, and the comparison with it counts what it says."""

import copy
import json

import pytest
import straightforward
import time_to_accuracy
import torch
from torch import nn

from tests import tiny


def test_a_budget_of_1_is_the_papers():
    assert straightforward.settings(1.0) == {
        "buffer": 5_000,
        "inversion": {
            "lr": 0.01,
            "iterations": 3_000,
            "blur": 0.001,
            "bns": 1.0,
            "weight_decay": 0.001,
            "temperature": 2.0,
        },
        "distillation": {"lr": 0.01, "iterations": 30_000, "batch_size": 32, "cross_entropy": 1.0},
    }
    tenth = straightforward.settings(0.1)
    assert (tenth["buffer"], tenth["inversion"]["iterations"], tenth["distillation"]["iterations"]) == (500, 300, 3_000)
    assert straightforward.settings(1.0, channels=3)["distillation"]["iterations"] == 50_000


def test_inverted_images_are_of_their_classes_and_have_the_statistics_of_the_data():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(1)
    norm.running_mean.fill_(2.0)
    expert = nn.Sequential(norm, nn.Flatten(), nn.Linear(16, 4)).eval().requires_grad_(False)
    config = {**straightforward.INVERSION[1], "lr": 0.1, "iterations": 300, "bns": 10.0}
    images, labels = straightforward.invert(expert, (1, 3), 10, (1, 4, 4), 0, config)
    assert labels.tolist() == [1, 3] * 5
    assert float(images.mean()) == pytest.approx(2.0, abs=0.1)
    assert expert(images).argmax(1).tolist() == labels.tolist()
    assert not norm._forward_hooks


def test_the_targets_are_those_of_equation_8():
    images = torch.tensor([[1.0, 2.0, 9.0], [3.0, 5.0, 7.0], [0.0, 4.0, 2.0]])
    labels = torch.tensor([0, 1, 2])
    seen, own = torch.tensor([True, False, True]), torch.tensor([False, True, True])
    target, given = straightforward.combined(images, labels, lambda x: 10 * x, seen, lambda x: x, own)
    # Previous student, centred over classes 0 and 2: [-40, ., 40], [-20, ., 20], [-10, ., 10]; the expert, over 1 and
    # 2: [., -3.5, 3.5], [., -1, 1], [., 1, -1]. Of class 2, which both know, the mean: (10 - 1) / 2.
    assert target.tolist() == [[-40, 0, 40], [0, -1, 1], [-10, 1, 4.5]]
    assert given.tolist() == [[True, False, True], [False, True, True], [True, True, True]]
    first, given = straightforward.combined(images[1:], labels[1:], None, None, lambda x: x, own)
    assert first.tolist() == [[0, -1, 1], [0, 1, -1]]
    assert given.tolist() == [[False, True, True]] * 2


def test_each_experience_makes_its_share_and_keeps_the_others(monkeypatch):
    made, drawn = [], []

    def invert(expert, classes, size, *_):
        made.append(size)
        return torch.full((size, 1, 4, 4), float(classes[0])), torch.full((size,), classes[0])

    def combined(images, labels, previous, seen, expert, own):
        known = (mask.nonzero().flatten().tolist() for mask in (seen, own))
        drawn.append((set(labels.tolist()), *known, previous is None))
        return torch.zeros(len(images), 4), torch.ones(len(images), 4, dtype=torch.bool)

    monkeypatch.setattr(straightforward, "invert", invert)
    monkeypatch.setattr(straightforward, "combined", combined)
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    before, told = copy.deepcopy(student.state_dict()), []
    experts = [(copy.deepcopy(student), (label,)) for label in range(3)]
    straightforward.learn(
        student, experts, (1, 4, 4), shift=1, budget=0.012, seed=0, after_experience=lambda done: told.append(done)
    )
    assert (made, told) == ([60, 30, 20], [1, 2, 3])
    assert not torch.equal(before["1.weight"], student.state_dict()["1.weight"])
    steps = 360
    assert len(drawn) == 3 * steps
    assert drawn[0] == ({0}, [], [0], True)
    assert set().union(*(labels for labels, *_ in drawn[2 * steps :])) == {0, 1, 2}
    assert drawn[-1][1:] == ([0, 1], [2], False)


def test_a_curve_reaches_an_accuracy_when_it_stays_there():
    curve = [(1.0, 20.0), (2.0, 35.0), (3.0, 25.0), (4.0, 35.0), (5.0, 40.0)]
    assert [time_to_accuracy.reached(curve, wanted) for wanted in (20.0, 30.0, 35.0, 36.0, 41.0)] == [1, 4, 4, 5, None]


def test_ratios_are_of_the_same_seed_and_losses_are_told():
    plain = {"curve": [(10.0, 40.0, 1, 0), (100.0, 30.0, 2, 0)]}
    ours = {"curve": [(1.0, 20.0, 0, 200), (2.0, 32.0, 1, 0), (50.0, 35.0, 2, 0)]}
    row = time_to_accuracy.compare(7, plain, ours)
    assert (row["ratio"], row["ratio_of_whole_times"], row["ratio_to_best"]) == (0.02, 0.5, None)
    worse = time_to_accuracy.compare(8, plain, {"curve": [(50.0, 25.0, 2, 0)]})
    assert worse["ratio"] is None
    assert time_to_accuracy._summary([row])["ratio"] == {"median": 0.02, "least": 0.02, "greatest": 0.02}
    assert time_to_accuracy._summary([row, worse])["ratio"] is None


@pytest.fixture
def small(monkeypatch):
    """Both sides on the tiny scenario."""
    monkeypatch.setattr("exml.scenarios.registry._FACTORIES", tiny.FACTORIES)
    monkeypatch.setattr(time_to_accuracy, "SCENARIOS", ("tiny-nc",))
    monkeypatch.setattr(time_to_accuracy, "EVERY", 2)
    monkeypatch.setattr(time_to_accuracy, "default_strategy", lambda *_: tiny.strategy())


@pytest.mark.usefixtures("small")
def test_a_comparison_is_resumed_and_gathered(tmp_path, capsys):
    measure = time_to_accuracy.measure
    measure("tiny-nc", 0, 0.004, "cpu", tmp_path)
    measure("tiny-nc", 1, 0.004, "cpu", tmp_path)
    said = capsys.readouterr().out
    order = [line.split(", ")[1:] for line in said.splitlines() if line.startswith("tiny-nc")]
    assert order == [
        ["seed 0", "straightforward"],
        ["seed 0", "exml"],
        ["seed 1", "exml"],
        ["seed 1", "straightforward"],
    ]

    found = time_to_accuracy.gather(tmp_path)
    [row] = found["scenarios"]["tiny-nc"]
    assert row["budget"] == 0.004
    assert (row["n"], [run["seed"] for run in row["runs"]]) == (2, [0, 1])
    assert row["settings"]["straightforward"]["budget"] == 0.004
    assert row["settings"]["exml"] == tiny.strategy().to_dict()
    assert [environment["threads"] for environment in found["environments"]] == [torch.get_num_threads()]
    for run in row["runs"]:
        for side in ("straightforward", "exml"):
            seconds = [point[0] for point in run[side]["curve"]]
            assert seconds == sorted(seconds)
            assert run[side]["seconds"] == seconds[-1]
            assert run[side]["curve"][-1][2:] == [2, 0]
    json.dumps(found, allow_nan=False)

    measure("tiny-nc", 0, 0.004, "cpu", tmp_path)
    assert capsys.readouterr().out == ""  # all is there
    folder = tmp_path / "tiny-nc" / "budget-0.004"
    (folder / "1" / "exml.json").unlink()
    changed = json.loads((folder / "0" / "exml.json").read_text())
    changed["settings"]["training"]["iterations"] += 1
    (folder / "0" / "exml.json").write_text(json.dumps(changed))
    measure("tiny-nc", 0, 0.004, "cpu", tmp_path)
    measure("tiny-nc", 0, 0.005, "cpu", tmp_path)
    order = [line.split(", ")[2] for line in capsys.readouterr().out.splitlines() if line.startswith("tiny-nc")]
    assert order == ["exml", "straightforward", "exml"]
    rows = time_to_accuracy.gather(tmp_path)["scenarios"]["tiny-nc"]
    assert [(row["budget"], row["n"]) for row in rows] == [(0.004, 1), (0.005, 1)]
