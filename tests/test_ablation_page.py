"""The page about the ablation says what was measured."""

import importlib

import pytest
import torch

from exml.combiners import ByClass, MultiTask
from exml.core.samples import Samples
from exml.core.targets import TeacherLogits


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("ablation")


def test_the_page_is_what_the_measurements_say(script):
    assert script.PAGE.read_text(encoding="utf-8") == script.page(script.measurements())


def test_a_page_without_measurements_says_so(script):
    assert script.page([]).endswith("\n\nNothing has been measured yet.\n")


def test_36_cells_that_differ_in_four_parts_and_share_their_images(script):
    made = [make(0).to_dict() for make in script.cells("mnist-nc", 0.005, 0.01).values()]
    assert len({str(plain) for plain in made}) == len(made) == 36
    varied = ("normalizer", "combiner", "augmentation", "loss")
    assert len({str({name: plain[name] for name in plain if name not in varied}) for plain in made}) == 1
    assert {plain["loss"]["cross_entropy"] for plain in made} == {0.0, 1.0}


def test_tasks_stay_apart_in_every_cell(script, monkeypatch):
    """Whatever combines the teachers, where there are tasks."""
    from exml.recipes import paper as text

    flat = text("mnist-nc", "model-inversion")
    tasks = MultiTask(((0, 1), (2, 3)), ByClass())
    monkeypatch.setattr(script.recipes, "paper", lambda *_: flat.combiner(tasks))
    combiners = [make(0).combiner for make in script.cells("cifar10-mt", 0.005, 0.01).values()]
    assert all(combiner.tasks == tasks.tasks for combiner in combiners)
    assert {type(combiner.combiner).__name__ for combiner in combiners} == {"ByClass", "ProductOfExperts"}
    assert {make(0).student for make in script.cells("cifar10-mt", 0.005, 0.01).values()} == {"first-expert"}


def test_within_tasks_side_by_side_is_eq_8(script):
    """Which is why the table has no column for it."""
    tasks = ((0, 2), (1, 3))
    known = torch.tensor([True, False, True, False])
    heads = [TeacherLogits(torch.randn(6, 4), mask, mask) for mask in (known, ~known)]
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    samples = Samples(torch.zeros(6, 1, 2, 2), labels, labels % 2, 1 + labels % 2)
    ours, theirs = (MultiTask(tasks, script.COMBINERS[name])(*heads, samples) for name in ("side by side", "Eq. 8"))
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.defined, theirs.defined)
    assert torch.equal(ours.candidates, theirs.candidates)


def test_margins_are_means_over_whole_rows_of_the_grid(script):
    """By hand: two normalizers with all that belongs to them, of the third one cell diverged."""
    accuracy = {name: {"0": 10.0} for name in script.cells("mnist-nc", 0.005, 0.01)}
    for combiner in script.COMBINERS:
        for weight in script.WEIGHTS:
            accuracy[script.name_of("centred", combiner, "augmented", weight)] = {"0": 30.0}
    accuracy[script.name_of("standardised", "Eq. 8", "not augmented", 1.0)] = {"0": "diverged"}
    rows = {(part, value): mean for part, value, mean in script.margins("mnist-nc", accuracy)}
    # Of 12 rows 11 are whole; in 6 of them "centred" has 30, in 5 it has 10.
    assert rows["normalizer", "centred"] == f"{(6 * 30 + 5 * 10) / 11:.1f}"
    assert rows["normalizer", "none"] == rows["normalizer", "standardised"] == "10.0"
    assert rows["augmentation", "augmented"] == f"{(6 * 30 + 11 * 10) / 17:.1f}"
    found = {
        "scenario": "mnist-nc",
        "budget": {"images": 0.005, "steps": 0.01},
        "sizes": {"buffer": 354, "inversion": 212, "distillation": 300},
        "hardware": ["A processor"],
        "threads": [1],
        "versions": {"torch": "2.15.0"},
        "commit": "abc1234",
        "processor_minutes": 7.5,
        "accuracy": accuracy,
    }
    text = script.section(found)
    assert "| standardised | not augmented | 10.0 | diverged | 10.0 | 10.0 | 10.0 | 10.0 |" in text
    assert "at commit abc1234 on A processor, 1 thread(s), in 7.5 minutes of the processor; torch 2.15.0" in text
