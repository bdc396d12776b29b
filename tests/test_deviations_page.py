"""The page about deviations says what was measured."""

import importlib
import json

import pytest


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("deviations")


def test_the_page_is_what_the_measurements_say(script):
    text = script.PAGE.read_text(encoding="utf-8")
    assert text == script.page(text, json.loads(script.RESULT.read_text(encoding="utf-8")))


def test_every_matter_is_measured_or_says_why_not(script):
    measured = json.loads(script.RESULT.read_text(encoding="utf-8"))["accuracy"]
    for matter in script.MATTERS:
        assert bool(matter.cells) != bool(matter.otherwise), matter.name
        for how in matter.cells:
            assert measured[script._folder(matter, how)], (matter.name, how)


def test_each_cell_changes_its_own_matter(script):
    """Against the base of its row: one part of the strategy, or the generator with its augmentation."""
    made = {name: make(0).to_dict() for name, make in script.cells().items()}
    assert all(list(made.values()).count(plain) == 1 for plain in made.values())
    for matter in script.MATTERS[:-1]:
        for how in matter.cells:
            plain, base = made[script._folder(matter, how)], made[matter.base]
            changed = {name for name, value in plain.items() if value != base[name]}
            assert len(changed - {"augmentation"}) <= 1, (matter.name, how)


def test_losses_are_told_as_well_as_wins(script):
    accuracy = {
        "model-inversion": {"0": 40.0, "1": 44.0},
        "blur-as-the-text": {"0": 37.0, "1": 39.0},
        "targets-eq-8-as-the-text": {"0": "diverged", "1": 50.0},
        "pixels-free": {"1": 45.5},
    }
    found = {
        "scenario": "mnist-nc",
        "budget": {"images": 0.005, "steps": 0.05},
        "sizes": {"model-inversion": {"buffer": 354, "inversion": 212, "distillation": 1500}},
        "unseen": {"0.1": 18.5, "10": 1.0},
        "hardware": ["A processor"],
        "threads": [1],
        "versions": {"torch": "2.15.0"},
        "commit": "abc1234",
        "processor_minutes": 7.5,
        "accuracy": accuracy,
    }
    text = script.table(found)
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert rows["| Blur"].endswith("| as the text: -4.0 ± 1.4 (n = 2) |")
    assert rows["| Targets (Eq. 8)"].endswith("| as the text: diverged (n = 2) |")
    assert rows["| Pixels"].endswith("| free: +1.5 (n = 1) |")
    assert rows["| First experience"].endswith("| a copy: not measured |")
    assert "`reference-model-inversion` 42.0 ± 2.8, with a buffer of 354 samples and 212 steps of inversion" in text
    assert "may be chance" not in text
    assert "may be chance" in script.table({**found, "accuracy": {"model-inversion": {"0": 40.0}}})
    assert "18.5 % at β = 0.1 and 1 % at β = 10 are of classes that the expert never saw" in text
    assert "at commit abc1234 on A processor, 1 thread(s), in 7.5 minutes of the processor; torch 2.15.0" in text
