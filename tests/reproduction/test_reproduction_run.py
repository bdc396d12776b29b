"""What a reproduction leaves behind, with cells measured in this process."""

import json
import re
import statistics

import attrs
import matplotlib as mpl
import pytest
import reproduction
from reproduction import Reproduction, read_cells

from exml.core.errors import CheckpointError, DataError, SettingError
from exml.learning.events import JobEnded, JobsStarted
from exml.scenarios import registry
from tests import tiny
from tests.reproduction.conftest import Here, prepare, small_layout

ASKED = Reproduction(parts=("table2",), seeds=(0, 1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Everything measured once: outcome, folder and events."""
    out, seen = tmp_path_factory.mktemp("whole"), []
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        outcome = reproduction.run(ASKED, out, executor=Here(), layout=small_layout(), observers=[seen.append])
    return outcome, out, seen


def test_cells_are_what_single_runs_say(whole, tmp_path):
    outcome, out, seen = whole
    assert outcome.failed == ()
    cells = {cell.name: cell for cell in read_cells(out)}
    rows = ["exml--budget=1", "paper-model-inversion--budget=1", "paper-noise--budget=1", "baselines"]
    columns = ("tiny-joint", "tiny-nc")
    assert set(cells) == {f"{column}/{row}--seed={seed}" for column in columns for row in rows for seed in (0, 1)}
    assert (type(seen[0]), seen[0].total) == (JobsStarted, len(cells))
    assert len([event for event in seen if isinstance(event, JobEnded)]) == len(cells)

    single = tiny.run("tiny-nc", {"mi": tiny.inversion()}, tmp_path / "single", seed=1)
    cell, (learned,) = cells["tiny-nc/paper-model-inversion--budget=1--seed=1"], single.strategies
    assert (cell.accuracy, cell.stream_accuracy) == (learned.accuracy, learned.stream_accuracy)
    assert cell.forgetting == learned.forgetting
    assert cell.strategy == learned.strategy
    assert cell.environments == single.environments
    assert cell.commit == "abc1234"
    assert cell.training["epochs"] == 2
    baselines = cells["tiny-nc/baselines--seed=1"]
    assert baselines.baselines == single.baselines
    assert baselines.stream_accuracy == ()
    cards = sorted((tmp_path / "single" / "experts").glob("*.json"))
    assert cell.experts == tuple(json.loads(card.read_text())["sha256"][:12] for card in cards)
    assert len(cell.experts) == 2
    assert max(path.stat().st_size for path in (out / "cells").glob("*/*.json")) < 20_000


def test_the_table_has_a_number_or_a_reason_everywhere(whole):
    _, out, _ = whole
    cells = {cell.name: cell for cell in read_cells(out)}
    pair = [100 * cells[f"tiny-nc/paper-model-inversion--budget=1--seed={seed}"].stream_accuracy[-1] for seed in (0, 1)]
    mean = (pair[0] + pair[1]) / 2
    deviation = abs(pair[0] - pair[1]) / 2**0.5
    assert statistics.stdev(pair) == pytest.approx(deviation)
    text = (out / "table.md").read_text(encoding="utf-8")
    first = text.index("## Table 2"), text.index("## Table 3")
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text[slice(*first)].splitlines()
        if line.startswith("|")
    }
    assert lines["MI"][1] == f"**{mean:.1f} ± {deviation:.1f}** (2, 1)<br>43.23 ± 3.00"
    number = re.search(r"<sup>(\d)</sup>\s+there\s+is\s+only\s+one\s+expert,", text)
    assert lines["Param. Avg."][0] == f"– <sup>{number[1]}</sup>"
    assert lines["Oracle"][1].endswith(" (2)<br>99.40 ± 0.25")
    assert "Noise (reference)" not in lines
    number = re.search(r"<sup>(\d)</sup>\s+not\s+asked", text[first[1] :])
    assert text[first[1] :].count(f"– <sup>{number[1]}</sup>") == 5
    assert "Nothing was measured yet." in text
    assert "abc1234" in text
    assert small_layout().note in text

    plain = json.loads((out / "table.json").read_text())["tables"]["table2"]
    row = next(row for row in plain["rows"] if row["name"] == "paper-model-inversion")
    entry = row["entries"]["tiny-nc"]
    assert (entry["n"], entry["seeds"], entry["paper"]) == (2, [0, 1], [43.23, 3.0])
    assert (entry["mean"], entry["deviation"]) == pytest.approx((mean, deviation))
    assert all(
        entry["reason"] or entry["mean"] is not None for row in plain["rows"] for entry in row["entries"].values()
    )


def page(out):
    """The table without its line breaks."""
    return " ".join((out / "table.md").read_text(encoding="utf-8").split())


def test_one_that_was_stopped_goes_on_and_may_ask_for_more(tmp_path):
    layout, out = small_layout(), tmp_path / "out"
    asked = attrs.evolve(ASKED, strategies=("baselines", "noise"))
    with pytest.raises(KeyboardInterrupt):
        reproduction.run(asked, out, executor=Here(stop_after=3), layout=layout)
    assert len(read_cells(out)) == 3
    assert "not measured yet." in page(out)
    rest = Here()
    more = attrs.evolve(asked, parts=("table2", "table3"))
    reproduction.run(more, out, resume=True, executor=rest, layout=layout)
    assert len(rest.asked) == 3 * 2 * 2 - 3
    nothing = Here()
    reproduction.run(more, out, resume=True, executor=nothing, layout=layout)
    assert nothing.asked == []
    text = page(out)
    assert "not measured yet." not in text
    number = re.search(r"<sup>(\d)</sup> not asked for", text)
    assert text.count(f"– <sup>{number[1]}</sup>") == 3 * 2  # rows of the strategies that nobody wanted


def test_a_cell_that_fails_says_so_and_is_begun_again(tmp_path):
    layout, out = small_layout(), tmp_path / "out"
    asked = attrs.evolve(ASKED, scenarios=("tiny-nc",))
    fails = {"noise--budget=1--seed=1": f"{out.resolve()}/x is | broken", "exml": "over"}
    outcome = reproduction.run(asked, out, executor=Here(fails=fails), layout=layout)
    assert sorted(cell.name for cell in outcome.failed) == [
        "tiny-nc/exml--budget=1--seed=0",
        "tiny-nc/exml--budget=1--seed=1",
        "tiny-nc/paper-noise--budget=1--seed=1",
    ]
    text = page(out)
    assert "</sup> 1 failed: seed 1: out/x is | broken." in text
    assert "</sup> failed: seed 0: over" in text
    (failure,) = (out / "failures").glob("*noise*")
    assert failure.read_text().endswith("Traceback: it broke")
    again = Here()
    assert reproduction.run(asked, out, resume=True, executor=again, layout=layout).failed == ()
    assert len(again.asked) == 3
    assert list((out / "failures").iterdir()) == []
    assert "failed" not in page(out)


def test_a_scenario_without_data_ends_no_other(tmp_path, monkeypatch):
    def nowhere(seed, split):
        raise DataError(expected="Tiny in /somewhere", got="nothing", remedy="set EXML_DATA")

    monkeypatch.setitem(registry._FACTORIES, "tiny-joint", nowhere)
    layout, out = small_layout(), tmp_path / "out"
    asked = attrs.evolve(ASKED, recipes=("paper", "reference"))
    made = reproduction.plan(asked, layout=layout)
    assert {column for column, _ in made.absent} == {"tiny-joint", "tiny-nc"}
    assert made.absent["tiny-nc", "reference-noise"] == "this version of exml has no such recipe"
    assert reproduction.run(asked, out, executor=Here(), layout=layout).failed == ()
    assert len(read_cells(out)) == 2 * 4
    text = page(out).partition("## Table 3")[0]
    number = re.search(r"<sup>(\d)</sup> not measured: needs Tiny in EXML_DATA", text)
    assert text.count(f"– <sup>{number[1]}</sup>") == 6
    assert "Noise (reference)" in text


def test_an_own_budget_and_training_are_further_cells(tmp_path):
    layout, out = small_layout(), tmp_path / "out"
    asked = attrs.evolve(ASKED, scenarios=("tiny-nc",), strategies=("noise",))
    low = attrs.evolve(asked, budget=0.5, expert_training="epochs=3", experts=tmp_path / "zoo")
    reproduction.run(low, out, executor=Here(), layout=layout)
    assert {path.name for path in (tmp_path / "zoo").iterdir()} == {"tiny-nc-epochs-3-0", "tiny-nc-epochs-3-1"}
    (cell, _) = read_cells(out)
    assert cell.name == "tiny-nc-epochs-3/paper-noise--budget=0.5--seed=0"
    assert cell.strategy["training"]["iterations"] == 4
    assert cell.training["epochs"] == 3
    reproduction.run(attrs.evolve(low, budget=1.0), out, resume=True, executor=Here(), layout=layout)
    assert len(read_cells(out)) == 4

    other = attrs.evolve(low, strategies=("noise", "exml"), own_budget=1.0)
    budgets = {cell.cell.row: cell.cell.budget for cell in reproduction.plan(other, layout=layout).cells}
    assert budgets == {"paper-noise": 0.5, "exml": 1.0}

    changed = small_layout(iterations=6)  # the recipe is another one by now
    again = Here()
    reproduction.run(attrs.evolve(low, seeds=(0,)), out, resume=True, executor=again, layout=changed)
    assert [given["strategies"]["paper-noise"]["training"]["iterations"] for given in again.asked] == [3]


def test_a_field_that_came_after_a_measurement_does_not_make_it_another(tmp_path):
    layout, out = small_layout(), tmp_path / "out"
    asked = attrs.evolve(ASKED, scenarios=("tiny-nc",), strategies=("noise",))
    reproduction.run(asked, out, executor=Here(), layout=layout)
    earlier, _ = read_cells(out)
    training = {key: value for key, value in earlier.strategy["training"].items() if key != "clip_norm"}
    attrs.evolve(earlier, strategy=earlier.strategy | {"training": training}).save(out)
    again = Here()
    reproduction.run(asked, out, resume=True, executor=again, layout=layout)
    assert again.asked == []
    assert "versions of its recipe" not in (out / "table.md").read_text()

    attrs.evolve(earlier, strategy=earlier.strategy | {"training": training | {"clip_norm": 1.0}}).save(out)
    reproduction.gather([], out, layout)
    assert "versions of its recipe" in (out / "table.md").read_text()
    reproduction.run(asked, out, resume=True, executor=again, layout=layout)
    assert [given["settings"].seed for given in again.asked] == [earlier.seed]


def test_pictures(tmp_path):
    layout, out = small_layout(), tmp_path / "out"
    asked = Reproduction(
        parts=("figure2", "figure3"), seeds=(1, 0), figure3_scenario="tiny-nc", buffer_sizes=(1, 4, 16), budget=0.25
    )
    reproduction.run(asked, out, executor=Here(), layout=layout)
    cells = read_cells(out)
    sizes = sorted(cell.buffer for cell in cells if cell.buffer is not None)
    assert sizes == sorted([4, 16] * 2 * 2)  # a single sample is no share for two experts; two rows, two seeds
    assert all(cell.strategy["buffer"]["size"] == cell.buffer for cell in cells if cell.buffer is not None)
    assert {(cell.column, cell.row) for cell in cells if cell.buffer is None} == {
        (column, "paper-model-inversion") for column in ("tiny-joint", "tiny-nc")
    }
    for name in ("figure2.png", "figure3.png"):
        assert mpl.image.imread(out / name).std() > 0.01

    figure = reproduction.figure3(cells, layout)
    (axis,) = figure.axes
    lines = {container.get_label(): container.lines[0] for container in axis.containers}
    assert set(lines) == {"MI", "ours"}
    found = [cell for cell in cells if cell.row == "exml" and cell.buffer == 16]
    assert list(lines["ours"].get_xdata()) == [4, 16]
    assert lines["ours"].get_ydata()[1] == pytest.approx(
        100 * sum(cell.stream_accuracy[-1] for cell in found) / len(found)
    )


def test_what_is_not_there_is_named(tmp_path):
    layout = small_layout()
    wrong = {
        "a table or figure: table2, table3, figure2, figure3": {"parts": ("table4",)},
        "a scenario of these tables: tiny-joint, tiny-nc": {"scenarios": ("tiny-ni",)},
        "a row of the tables: baselines, model-inversion, noise, exml": {"strategies": ("luck",)},
        "a scenario for Figure 3": {"parts": ("figure3",), "figure3_scenario": "cifar10-mt"},
    }
    for message, changes in wrong.items():
        with pytest.raises(SettingError, match=message):
            reproduction.run(attrs.evolve(ASKED, **changes), tmp_path / "out", layout=layout)
    for changes in ({"seeds": (0, 0)}, {"seeds": ()}, {"budget": 0}, {"recipes": ("mine",)}, {"buffer_sizes": (0,)}):
        with pytest.raises(SettingError):
            attrs.evolve(ASKED, **changes)
    with pytest.raises(SettingError, match="settings field=value"):
        reproduction.run(attrs.evolve(ASKED, expert_training="epoch=3"), tmp_path / "out", layout=layout)
    with pytest.raises(CheckpointError, match=r"a reproduction in .*, got none"):
        reproduction.run(ASKED, tmp_path / "out", resume=True, layout=layout)
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").touch()
    with pytest.raises(CheckpointError, match="a new or empty folder"):
        reproduction.run(ASKED, tmp_path / "full", layout=layout)
