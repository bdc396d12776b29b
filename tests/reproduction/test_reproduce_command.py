"""benchmarks/reproduce.py: what it lists, gathers and refuses."""

import json
from pathlib import Path

import attrs
import pytest
import reproduce
import reproduction
from reproduction import Cell, Outcome, read_cells

from exml.cli import run_app
from exml.runs import Environment, LocalProcesses, Resources, Seconds
from tests.reproduction.conftest import small_layout


@pytest.fixture
def small(monkeypatch):
    """The command with the small layout in place of the paper's; what it runs is remembered, not carried out."""
    asked, layout = [], small_layout()

    def run(request, out, **more):
        asked.append((request, out, more))
        return Outcome(reproduction.plan(request, layout=layout), (), ())

    monkeypatch.setattr(reproduce.reproduction, "run", run)
    return asked


def call(capsys, *arguments):
    code = run_app(reproduce.app, arguments)
    return code, *capsys.readouterr()


def made(seed, accuracy=0.5, **more):
    place = Environment(versions={"exml": "1", "torch": "2"}, device="cpu", hardware="A processor", threads=1)
    return Cell(
        column="mnist-nc",
        scenario="mnist-nc",
        row="exml",
        seed=seed,
        budget=0.1,
        stream_accuracy=(accuracy,),
        seconds=Seconds(generation=30.0),
        environments=(place,),
        **more,
    )


def test_every_argument_arrives(tmp_path, capsys, small, monkeypatch):
    arguments = ["table2", "figure3", "--scenarios", "tiny-nc, tiny-joint", "--strategies", "noise,exml"]
    arguments += ["--recipes", "paper,reference", "--seeds", "0,3", "--budget", "0.25", "--own-budget", "0.5"]
    arguments += ["--expert-training", "epochs=4,schedule=cosine", "--experts", str(tmp_path / "zoo")]
    arguments += ["--figure3-scenario", "tiny-nc", "--buffer-sizes", "10,20", "--threads", "2", "--workers", "3"]
    code, out, _ = call(capsys, *arguments, "--out", str(tmp_path / "out"), "--resume", "--compile", "capture")
    assert code == 0, out
    ((request, folder, more),) = small
    assert request == reproduction.Reproduction(
        parts=("table2", "figure3"),
        scenarios=("tiny-nc", "tiny-joint"),
        strategies=("noise", "exml"),
        recipes=("paper", "reference"),
        seeds=(0, 3),
        budget=0.25,
        own_budget=0.5,
        expert_training="epochs=4,schedule=cosine",
        experts=tmp_path / "zoo",
        figure3_scenario="tiny-nc",
        buffer_sizes=(10, 20),
        compile="capture",
        threads=2,
    )
    assert request.resources == Resources(cpus=2)
    assert attrs.evolve(request, device="cuda").resources.gpus == 1
    assert (folder, more["resume"], more["executor"]) == (tmp_path / "out", True, LocalProcesses(3))
    assert call(capsys, "--out", str(tmp_path / "out"), "--seeds", "2", "--strategies", "noise")[0] == 0
    assert (small[1][0].parts, small[1][0].seeds) == (("table2", "table3"), (0, 1))
    assert "this version of exml has no such recipe" in out


def test_failures_and_interruptions(tmp_path, capsys, small, monkeypatch):
    failed = made(0, error="no luck")

    def fail(request, out, **_):
        return Outcome(
            reproduction.plan(attrs.evolve(request, parts=("table2",)), layout=small_layout()), (), (failed,)
        )

    monkeypatch.setattr(reproduce.reproduction, "run", fail)
    code, _, err = call(capsys, "table2", "--out", str(tmp_path / "out"), "--seeds", "1,")
    assert (code, err) == (1, "failed: mnist-nc/exml--budget=0.1--seed=0: no luck\n")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce.reproduction, "run", interrupt)
    code, _, err = call(capsys, "table2", "--out", str(tmp_path / "out"))
    assert code == 130
    assert err.startswith("exml: interrupted; resume with: python ")
    assert err.endswith(" --resume\n")


def test_a_dry_run_lists_and_writes_nothing(tmp_path, capsys, monkeypatch):
    layout, plan = small_layout(), reproduction.plan
    monkeypatch.setattr(reproduce.reproduction, "plan", lambda asked, out: plan(asked, out, layout))
    arguments = ["table2", "--scenarios", "tiny-nc", "--seeds", "2", "--strategies", "baselines,noise"]
    code, out, _ = call(capsys, *arguments, "--out", str(tmp_path / "out"), "--dry-run")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert [line[:5] for line in lines if line and line[0].startswith("tiny")] == [
        ["tiny-nc", "baselines", "2", "0", "0"],
        ["tiny-nc", "paper-noise", "budget=1.0", "2", "0"],
    ]
    assert "4 run(s); 4 to do: about" in out
    assert not (tmp_path / "out").exists()


def test_without_data_nothing_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("EXML_DATA", str(tmp_path))
    names = "core50-joint, core50-nc, core50-ni"
    code, out, err = call(capsys, "table3", "--dry-run", "--out", str(tmp_path / "out"))
    assert (code, out) == (0, f"Not measured: {names}: needs CORe50 in EXML_DATA.\n"), err


def test_folders_become_one(tmp_path, capsys):
    made(0, 0.4).save(tmp_path / "a")
    made(1, error="broke").save(tmp_path / "a")
    made(2, 0.6).save(tmp_path / "a")
    made(1, 0.5).save(tmp_path / "b")
    made(2, error="broke").save(tmp_path / "b")
    (tmp_path / "b" / "figure2.png").write_bytes(b"a picture")
    asked = {"asked": {"core50-nc": {"exml": "needs CORe50 in EXML_DATA"}}, "version": 1}
    (tmp_path / "c").mkdir()  # where nothing could be measured
    (tmp_path / "c" / "reproduction.json").write_text(json.dumps(asked))
    out = tmp_path / "out"
    sources = [str(tmp_path / name) for name in "abc"]
    code, shown, _ = call(capsys, "gather", *sources, "--out", str(out))
    assert code == 0
    assert "50.0 ± 10.0 (3)" in shown
    assert [cell.stream_accuracy for cell in read_cells(out)] == [(0.4,), (0.5,), (0.6,)]
    assert (out / "figure2.png").read_bytes() == b"a picture"
    text = (out / "table.md").read_text()
    assert "needs CORe50 in EXML_DATA" in text
    assert call(capsys, "gather", *sources, "--out", str(out))[0] == 0
    assert (out / "table.md").read_text() == text
    written = {"cells", "figure2.png", "reproduction.json", "table.json", "table.md"}
    assert {path.name for path in out.iterdir()} == written


def test_messages_do_not_depend_on_other_imports(tmp_path, capsys):
    pytest.importorskip("pydantic")  # Cyclopts uses it where it is imported
    code, _, err = call(capsys, "table2", "--recipes", "mine", "--out", str(tmp_path / "out"))
    assert (code, err.count("\n")) == (2, 1)
    assert "'paper', 'reference'" in err
    assert "pydantic" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table2", "--scenarios", "core50-nc"], "a scenario of these tables: mnist-joint"),
        (["table2", "--strategies", "luck"], "a row of the tables: baselines, model-inversion"),
        (["table2", "--seeds", "one"], "'one'"),
        (["table2", "--seeds", "0"], "one or more different seeds"),
        (["table2", "--recipes", "mine"], "'paper', 'reference'"),
        (["table2", "--address", "here"], "--backend ray"),
        (["gather", "nowhere"], "a reproduction in nowhere, got none"),
        (["table2", "--resume"], "a reproduction in"),
        (["table9"], "table9"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path, capsys, arguments, message):
    code, _, err = call(capsys, *arguments, "--out", str(tmp_path / "out"))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not Path(tmp_path / "out" / "reproduction.json").exists()
