"""Loggers: what they write of a run, read back with the tools that people use."""

import csv
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from exml.cli import main
from exml.core.errors import SettingError
from exml.learning import events
from exml.runs import CSVLogger, MLflowLogger, TensorBoardLogger, WandbLogger
from tests import tiny


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    tiny.register(monkeypatch)
    tiny.no_figures(monkeypatch)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(out, observers, **settings):
    return tiny.run("tiny-nc", {"exml": tiny.inversion()}, out, observers=observers, baselines=False, **settings)


def test_csv_has_every_metric_and_setting(tmp_path):
    with CSVLogger(tmp_path / "log", every=3) as log:
        result = run(tmp_path / "run", [log], seed=4)
    rows = rows_of(tmp_path / "log" / "metrics.csv")
    assert {row["strategy"] for row in rows} == {"exml"}
    losses = [(int(row["step"]), float(row["value"])) for row in rows if row["name"] == "loss"]
    assert [step for step, _ in losses] == [3, 6, 8, 11, 14, 16]
    assert np.isfinite([value for _, value in losses]).all()
    streams = [float(row["value"]) for row in rows if row["name"] == "stream_accuracy"]
    assert streams == list(result.strategies[0].stream_accuracy)
    matrix = [[float(row["value"]) for row in rows if row["name"] == f"accuracy/{number}"] for number in (1, 2)]
    assert np.array_equal(np.transpose(matrix), result.strategies[0].accuracy)
    assert [row["value"] for row in rows if row["name"] == "buffer_size"] == ["16", "16"]
    settings = {row["name"]: row["value"] for row in rows_of(tmp_path / "log" / "settings.csv")}
    assert settings["seed"] == "4"
    assert settings["generator"] == "model-inversion"
    assert settings["generator.iterations"] == "6"


def test_a_row_that_a_kill_cut_is_dropped(tmp_path):
    step = events.StudentEvaluated("exml", 1, (0.5,), 0.5)
    with CSVLogger(tmp_path) as log:
        log(step)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("exml,stream_accu")
    with CSVLogger(tmp_path) as log:
        log(step)
    assert [row["name"] for row in rows_of(tmp_path / "metrics.csv")] == ["stream_accuracy", "accuracy/1"] * 2


def test_tensorboard_reads_what_was_written(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with TensorBoardLogger(tmp_path / "log", every=4) as log:
        result = run(tmp_path / "run", [log])
    found = accumulators.EventAccumulator(str(tmp_path / "log" / "exml"))
    found.Reload()
    assert [event.step for event in found.Scalars("loss")] == [4, 8, 12, 16]
    reached = [event.value for event in found.Scalars("stream_accuracy")]
    assert reached == pytest.approx(list(result.strategies[0].stream_accuracy))
    assert [event.step for event in found.Images("images")] == [1, 2]
    assert found.Images("images")[0].width == 8 * 5 - 1
    assert found.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"


def test_tensorboard_that_is_not_installed_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingError, match=re.escape("pip install exml[tensorboard]")):
        TensorBoardLogger(tmp_path)


class Recorder:
    """Stands for the modules wandb and mlflow: it keeps every call."""

    def __init__(self):
        self.calls = []
        self.config = SimpleNamespace(update=lambda settings: self.calls.append(("config", settings)))

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, *args, *kwargs.items())) or name


def test_weights_and_biases_gets_each_scalar_with_its_step(tmp_path):
    wandb = Recorder()
    run(tmp_path / "run", [WandbLogger(wandb, every=8)])
    logged = [call[1] for call in wandb.calls if call[0] == "log"]
    assert [entry["exml/loss/step"] for entry in logged if "exml/loss" in entry] == [8, 16]
    assert [entry["exml/images"] for entry in logged if "exml/images" in entry] == ["Image", "Image"]
    assert wandb.calls.count(("define_metric", "exml/loss", ("step_metric", "exml/loss/step"))) == 1
    assert wandb.calls[0][1]["exml/generator"] == "model-inversion"
    assert {call[1].shape[1:] for call in wandb.calls if call[0] == "Image"} == {(8 * 5 - 1, 3)}


def test_mlflow_gets_parameters_metrics_and_artifacts(tmp_path):
    mlflow = Recorder()
    run(tmp_path / "run", [MLflowLogger(mlflow, every=8)])
    names = [call[1] for call in mlflow.calls if call[0] == "log_metric"]
    assert names.count("exml/loss") == 2
    assert ("log_image", "exml/images-1.png") in [(call[0], call[2]) for call in mlflow.calls if call[0] == "log_image"]
    settings = next(call[1] for call in mlflow.calls if call[0] == "log_params")
    assert settings["exml/seed"] == 0
    assert all(re.fullmatch(r"[\w./: -]+", name, re.ASCII) for name in settings)


def test_a_logger_without_a_run_has_no_strategy(tmp_path):
    mlflow = Recorder()
    MLflowLogger(mlflow)(events.DistillationProgress(1, 10, 10, np.float32(0.5), 4))
    assert mlflow.calls == [("log_metric", "loss", 0.5, ("step", 10))]


def test_every_step_is_at_least_one(tmp_path):
    with pytest.raises(SettingError, match="every >= 1"):
        CSVLogger(tmp_path, every=0)


def test_the_command_logs_into_the_folder_and_resumes(tmp_path, capsys):
    strategy = tmp_path / "small.yaml"
    tiny.inversion().save(strategy)
    out = tmp_path / "run"
    command = [
        "run",
        "tiny-nc",
        "--out",
        str(out),
        "--strategy",
        str(strategy),
        "--quiet",
        "--log",
        "csv",
        "tensorboard",
    ]
    assert main(command) == 0
    assert {path.name for path in (out / "log").iterdir()} == {"metrics.csv", "settings.csv", "small"}
    files = json.loads((out / "run.json").read_text())["files"]
    assert not any(name.startswith("log/") for name in files)
    (out / "log" / "metrics.csv").write_text("")  # belongs to no one: a resumed run does not complain
    assert main([*command, "--resume"]) == 0
    assert main(["run", "tiny-nc", "--out", str(tmp_path / "other"), "--log", "paper"]) == 2
    assert "tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
