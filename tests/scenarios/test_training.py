"""Experts of a scenario: their cards, and training that resumes after a kill."""

import inspect
import json
from pathlib import Path

import attrs
import pytest
import torch

from exml import scenarios
from exml.core.errors import ExmlWarning
from exml.experts import ExpertTraining, read_card
from exml.experts._checkpoint import TrainingCheckpoint
from exml.scenarios.scenario import _ExpertJob


def short(split="test"):
    scenario = scenarios.load("digits-nc", seed=1, split=split)
    training = ExpertTraining(epochs=2, learning_rate=0.01)
    return attrs.evolve(scenario, experiences=scenario.experiences[:2], training=training)


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_card_says_the_accuracy_on_the_validation_part(tmp_path):
    validation = short("validation")
    experts = short().train_experts(1, tmp_path, validation=validation)
    for expert, experience in zip(experts, validation.experiences, strict=True):
        card = read_card(tmp_path / f"expert-{experience.index}.json")
        classes = torch.tensor(card.classes)
        logits = expert.logits(experience.test.pixels()).detach()[:, classes]
        right = (classes[logits.argmax(1)] == experience.test.labels).double().mean()
        assert card.accuracy == pytest.approx(float(right))
        assert card.training["accuracy"] == {"split": "validation", "images": 60}


def test_an_expert_is_the_same_with_and_without_a_measured_accuracy(tmp_path):
    short().train_experts(1, tmp_path, validation=short("validation"))
    before = files(tmp_path)
    told = []
    short().train_experts(1, tmp_path, progress=lambda done, _: told.append(done))
    assert files(tmp_path) == before
    assert told == [2, 4]


def test_a_kill_in_the_middle_of_an_expert_loses_a_moment(tmp_path, monkeypatch):
    """Killed after the third step of the second expert, which has seven in an epoch."""
    short().train_experts(1, tmp_path / "whole")
    monkeypatch.setitem(inspect.unwrap(TrainingCheckpoint.save).__globals__, "PERIOD", 0.0)
    save, steps = TrainingCheckpoint.save, []

    def save_and_die(self, module, optimizer, done):
        save(self, module, optimizer, done)
        steps.append(done)
        if len(steps) == len(short().experiences[0].train) // 32 * 2 + 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingCheckpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        short().train_experts(1, tmp_path / "killed")
    assert (tmp_path / "killed" / "expert-2.training").exists()
    died_at = steps[-1]
    steps.clear()
    monkeypatch.setattr(TrainingCheckpoint, "save", lambda self, module, optimizer, done: steps.append(done))
    short().train_experts(1, tmp_path / "killed")
    assert steps[0] == died_at + 1
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_checkpoint_that_its_expert_outlived_is_deleted(tmp_path):
    short().train_experts(1, tmp_path)
    (tmp_path / "expert-1.training").write_bytes(b"left by a kill between two lines")
    short().train_experts(1, tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".json", ".safetensors", ".safetensors"]


@pytest.mark.parametrize("change", [{"mean": [0.1]}, {"training": {"seed": 2}}, {"sha256": None}, {"name": 3}, None])
def test_a_changed_card_is_trained_again(tmp_path, monkeypatch, change):
    short().train_experts(1, tmp_path)
    before, path = files(tmp_path), tmp_path / "expert-1.json"
    card = json.loads(path.read_text())
    path.write_text("{" if change is None else json.dumps(card | change))
    trained, train = [], _ExpertJob.__call__
    monkeypatch.setattr(_ExpertJob, "__call__", lambda job, *rest: trained.append(job.index) or train(job, *rest))
    with pytest.warns(ExmlWarning, match=r"expert-1\.json is trained again"):
        short().train_experts(1, tmp_path)
    assert trained == [1]
    assert files(tmp_path) == before
