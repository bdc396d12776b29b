"""The rows of the page Results: measured once each, merged with those of other runs, resumed after a kill."""

from types import SimpleNamespace

import pytest
import streams
import torch
from streams import Rows, measured, of_scenario

from exml.combiners import SideBySide
from tests import tiny


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    tiny.register(monkeypatch)
    strategy = tiny.strategy(combiner=SideBySide())
    monkeypatch.setattr(streams, "recipe", lambda *_, **__: SimpleNamespace(build=lambda: strategy))
    monkeypatch.setattr(streams, "agreement", lambda *_, **__: SimpleNamespace(score=0.5))


def case(tmp_path, seed=0, start="known", adam=False):
    return of_scenario("tiny-nc", seed, start, adam, "test", tmp_path / "zoo")


def test_rows_are_measured_once_and_merged(tmp_path, monkeypatch):
    rows = Rows(tmp_path / "streams.json")
    measured([case(tmp_path)], rows, tmp_path / "work")
    measured([case(tmp_path, 1)], rows, tmp_path / "work")
    found = rows.read()
    assert list(found) == ["tiny-nc | seed 0", "tiny-nc | seed 1"]
    row = found["tiny-nc | seed 0"]
    assert row["images"] == 23
    assert row["oracle"] >= row["target"] >= 0
    assert row["agreement"] == 50
    assert row["processor_seconds"] > 0
    assert {"hardware", "threads", "versions", "commit"} <= set(row)
    assert list((tmp_path / "work").iterdir()) == []
    monkeypatch.setattr(streams, "measure", None)
    measured([case(tmp_path), case(tmp_path, 1)], rows, tmp_path / "work")
    other = tiny.strategy(combiner=SideBySide(calibration=0.5))
    monkeypatch.setattr(streams, "recipe", lambda *_, **__: SimpleNamespace(build=lambda: other))
    assert rows.lacks(case(tmp_path))


def test_a_killed_row_is_finished_with_the_same_student(tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    whole, rows = Rows(tmp_path / "whole.json"), Rows(tmp_path / "streams.json")
    measured([case(tmp_path)], whole, tmp_path / "work")
    with monkeypatch.context() as patched:
        patched.setattr(streams, "evaluate_student", killed)
        with pytest.raises(KeyboardInterrupt):
            measured([case(tmp_path)], rows, tmp_path / "work")
    assert rows.read() == {}
    measured([case(tmp_path)], rows, tmp_path / "work")
    ((_, row),), ((_, wanted),) = rows.read().items(), whole.read().items()
    spent = dict.fromkeys(("seconds", "processor_seconds"))
    assert row | spent == wanted | spent
    assert row["processor_seconds"] is None


def test_experts_of_other_origin_have_streams_of_their_own(tmp_path):
    cases = {
        "tiny-nc": case(tmp_path),
        "tiny-nc, start unknown": case(tmp_path, start="unknown"),
        "tiny-nc, own starts": case(tmp_path, start="own"),
        "tiny-nc, Adam": case(tmp_path, adam=True),
    }
    assert list(cases) == [each.stream for each in cases.values()]
    assert [each.start is None for each in cases.values()] == [False, True, True, False]
    weights = {name: next(each.experts[0].module.parameters()) for name, each in cases.items()}
    assert torch.equal(weights["tiny-nc"], weights["tiny-nc, start unknown"])
    for name in ("tiny-nc, own starts", "tiny-nc, Adam"):
        assert not torch.equal(weights["tiny-nc"], weights[name])
        assert [expert.classes for expert in cases[name].experts] == [
            part.classes for part in cases[name].scenario.experiences
        ]
    again = case(tmp_path, adam=True).experts[0].module
    assert torch.equal(next(again.parameters()), weights["tiny-nc, Adam"])


def test_other_settings_of_the_training_are_printed_and_not_kept(tmp_path):
    parser = streams.options("", str(tmp_path))
    plain, other = (parser.parse_args(words) for words in ([], ["--training", "margin=2", "optimizer=adam"]))
    held_out = parser.parse_args(["--split", "validation"])
    assert streams.kept(plain, "streams.json").path.name == "streams.json"
    assert streams.kept(other, "streams.json") is streams.kept(held_out, "streams.json") is None
    given = case(tmp_path)
    assert streams.changed(given, plain.training).strategy == given.strategy
    training = streams.changed(given, other.training).strategy.training
    assert (training.margin, training.optimizer) == (2, "adam")
