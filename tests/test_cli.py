"""The command line: what it prints and refuses, and that a run survives kill -9."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

import exml
from exml import cli, runs
from exml.recipes import RECIPES, for_scenario
from exml.runs import Result
from exml.scenarios import registry
from tests import tiny

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _scenarios(monkeypatch):
    for name, factory in tiny.FACTORIES.items():
        monkeypatch.setitem(registry._FACTORIES, name, factory)


@pytest.fixture
def plain(tmp_path):
    """The path of a strategy file."""
    path = tmp_path / "plain.yaml"
    tiny.strategy().save(path)
    return path


def call(capsys, *arguments):
    code = cli.main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_run_from_end_to_end(tmp_path, plain, capsys):
    code, out, err = call(capsys, "run", "tiny-nc", "--seed", 1, "--out", tmp_path / "a", "--strategy", plain)
    assert (code, err) == (0, "")  # not a terminal: no display
    result = Result.load(tmp_path / "a" / "result.json")
    assert (result.scenario, result.seed) == ("tiny-nc", 1)
    forecast, title, *_ = out.splitlines()
    assert re.fullmatch(r"Forecast for plain: .*: generation .* s, distillation .* s\.", forecast)
    assert title == "tiny-nc, seed 1: accuracy on the test images, %"
    assert re.search(r"^plain: forecast .* s, took .* s \([+-]\d+%\)\.$", out, re.MULTILINE)
    for row in [*result.strategies, *result.baselines]:
        assert f"\n{row.name} " in out
    assert out.endswith(f"Everything is in {tmp_path / 'a'}.\n")
    assert {"student.safetensors", "samples.png", "accuracy.png"} <= {path.name for path in (tmp_path / "a").iterdir()}
    assert exml.Strategy.from_dict(result.strategies[0].strategy) == tiny.strategy()

    again = call(capsys, "run", "tiny-nc", "--seed", 1, "--out", tmp_path / "a", "--strategy", plain, "--resume")
    assert again == (0, out.partition("\n")[2], "")


def test_a_dry_run_prints_only_the_forecast(tmp_path, plain, capsys):
    code, out, err = call(capsys, "run", "tiny-nc", "--out", tmp_path / "a", "--strategy", f"{plain},exml", "--dry-run")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"Forecast for plain: .*\.\nForecast for exml: .*\.\n", out)
    assert not (tmp_path / "a").exists()


def arguments_of(capsys, monkeypatch, *arguments):
    """The arguments with which a command line calls :func:`exml.runs.run`."""
    found = {}
    monkeypatch.setattr(runs, "run", lambda *args, **settings: found.update(args=args, **settings) or 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        call(capsys, "run", *arguments, "--quiet")
    return found


def test_several_strategies_by_name_and_by_file(tmp_path, plain, capsys, monkeypatch):
    arguments = ("digits-mt", "--seed", 3, "--out", tmp_path / "a", "--strategy", f"exml,{plain},replay")
    found = arguments_of(capsys, monkeypatch, *arguments)
    source, strategies, out = found["args"]
    assert (source, out, found["settings"].seed) == (runs.ScenarioExperts("digits-mt"), tmp_path / "a", 3)
    assert strategies.pop("plain") == tiny.strategy()
    profile = exml.scenarios.load("digits-mt", 3).profile()
    for name, choose in strategies.items():
        assert choose(profile, None) == for_scenario(name, "digits-mt", 3).build()


def test_every_option_arrives(tmp_path, capsys, monkeypatch):
    options = "--split validation --device auto --checkpoint-every 7 --resume --precision bfloat16"
    found = arguments_of(capsys, monkeypatch, "digits-nc", "--out", tmp_path, *options.split())
    assert found["args"][0] == runs.ScenarioExperts("digits-nc", "validation")
    settings = runs.RunSettings(0, "auto", exml.engine.Execution("never", "bfloat16"), 7)
    assert (found["settings"], found["resume"]) == (settings, True)


def test_quiet_is_quiet(tmp_path, plain, capsys):
    arguments = ("run", "tiny-joint", "--out", tmp_path / "a", "--strategy", plain, "--quiet")
    assert call(capsys, *arguments) == (0, "", "")
    assert (tmp_path / "a" / "result.json").exists()


def test_the_lists_have_one_line_per_entry(capsys):
    code, out, err = call(capsys, "strategies")
    assert (code, err) == (0, "")
    listed = re.findall(r"^(\S+)  +\S", out, flags=re.MULTILINE)
    assert listed == ["strategy", *RECIPES]
    code, out, err = call(capsys, "scenarios")
    assert (code, err) == (0, "")
    listed = re.findall(r"^([a-z]\S+)  +\S", out, flags=re.MULTILINE)
    assert listed == ["scenario", *exml.scenarios.names()]
    lines = dict(re.findall(r"^(\S+)  +(.*?) *$", out, flags=re.MULTILINE))
    assert lines["tiny-mt"] == "2 experiences of 2 classes (4 in all), task labels, images 1x4x4"
    assert lines["tiny-ni"] == "2 experiences of 4 classes, one test set, images 1x4x4"
    assert lines["tiny-joint"] == "1 experience of 4 classes, images 1x4x4"


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_import_no_torch(option):
    """``python -m exml``, as a process."""
    command = [sys.executable, "-X", "importtime", "-m", "exml", option]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout == "") == (0, False)
    assert "exml.cli" in done.stderr
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)


def test_version_and_help(capsys):
    assert call(capsys, "--version") == (0, f"{version('exml')}\n", "")
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert all(command in out for command in ("learn", "plan", "run", "strategies", "scenarios"))
    code, out, _ = call(capsys, "run", "--help")
    assert code == 0
    for option in ("out", "strategy", "seed", "split", "device", "checkpoint-every", "resume", "quiet"):
        assert f"--{option}" in out
    assert "--no-" not in out


def test_help_has_no_line_breaks_within_a_sentence(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    out = call(capsys, "learn", "--help")[1]
    assert "NAME may be torchvision/NAME or timm/NAME. By default the first expert's architecture" in out


BROKEN = {
    "syntax.yaml": "generator: [",
    "empty.yaml": "",
    "kind.yaml": "generator: {kind: crystal-ball}",
    "key.yaml": "colour: blue",
    "binary.json": "\x00\xff",
}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("run mnist-xy --out new", "one of .*digits-nc.*, got 'mnist-xy'"),
        ("run tiny-nc --out new --strategy magic", "one of exml, .*, got 'magic'; remedy: choose one, or give a YAML"),
        ("run tiny-nc --out new --strategy exml,", "got ''"),
        ("run tiny-nc --out new --strategy exml,exml", "each strategy once, got 'exml' twice"),
        ("run tiny-nc --out new --strategy absent.yaml", "a strategy in absent.yaml.*No such file"),
        ("run tiny-nc --out new --strategy syntax.yaml", "with valid YAML"),
        ("run tiny-nc --out new --strategy empty.yaml", "got None"),
        ("run tiny-nc --out new --strategy kind.yaml", "at generator, got 'crystal-ball'"),
        ("run tiny-nc --out new --strategy key.yaml", "at colour"),
        ("run tiny-nc --out new --strategy binary.json", "remedy"),
        ("run tiny-nc --out file/new --strategy key.yaml,plain.yaml", "at colour"),
        ("run tiny-nc --out file/new --strategy plain.yaml", "at file/new, got .*Not a directory"),
        ("run tiny-nc --out file --strategy plain.yaml", "a new or empty folder at file, got .*Not a directory"),
        (
            "run tiny-nc --out full --strategy plain.yaml",
            "a new or empty folder at full, got a folder with other files",
        ),
        ("run tiny-nc --out begun --strategy plain.yaml", "got a folder with a run; remedy: resume that run"),
        ("run tiny-nc --out begun --strategy plain.yaml --resume", "run.json"),
        ("run tiny-nc --out new --strategy plain.yaml --resume", "a run in new, got none"),
        ("run tiny-nc --out new --strategy plain.yaml --seed half", "half"),
        ("run tiny-nc --out new --strategy plain.yaml --seed -1", ">= 0 for RunSettings.seed"),
        ("run tiny-nc --out new --strategy plain.yaml --seed 1.5", "1.5"),
        ("run tiny-nc --out new --strategy plain.yaml --split train", "train"),
        ("run tiny-nc --out new --strategy plain.yaml --device abacus", "abacus"),
        ("run tiny-nc --out new --strategy plain.yaml --checkpoint-every 0", ">= 1 .*for RunSettings.checkpoint_every"),
        ("run tiny-nc --out new --strategy plain.yaml --speed 3", "speed"),
        ("run tiny-nc --out new --strategy plain.yaml surplus", "surplus"),
        ("run tiny-nc --strategy plain.yaml", "out"),
        ("run --out new", "scenario"),
        ("walk tiny-nc", "walk"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(tmp_path, plain, capsys, monkeypatch, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    for name, text in BROKEN.items():
        Path(name).write_text(text, encoding="latin-1")
    Path("file").touch()
    for folder, file in (("full", "thesis.tex"), ("begun", "run.json")):
        Path(folder).mkdir()
        (Path(folder) / file).touch()
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call(capsys, *shlex.split(arguments))
    assert code == 2
    assert out == "" or "to write into" in complaint  # the forecast comes first
    assert re.search(complaint, err, flags=re.IGNORECASE), err
    assert err.startswith("exml: error: ")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_prior_without_effect_is_refused(tmp_path, capsys):
    prior = "prior: {kind: total-variation, weight: 1.0}"  # without effect: noise optimizes no pixels
    (tmp_path / "odd.yaml").write_text(tiny.strategy().to_yaml().replace("prior: null", prior))
    code, _, err = call(capsys, "run", "tiny-nc", "--out", tmp_path / "a", "--strategy", tmp_path / "odd.yaml")
    assert code == 2
    assert "prior has no effect" in err


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_prints_how_to_resume(tmp_path, plain, capsys, monkeypatch, times):
    """The first one stops after the current step; the second one interrupts at once."""
    arguments = ["run", "tiny-nc", "--out", str(tmp_path / "a b"), "--strategy", str(plain)]
    monkeypatch.setattr(sys, "argv", ["exml", *arguments])

    steps = iter(range(20))

    def interrupt(*_):
        if next(steps, None) == 19:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runs.ProgressDisplay, "__call__", interrupt)
    code, out, err = call(capsys, *arguments)
    assert code == 130
    assert out.startswith("Forecast for plain: ")
    assert len(out.splitlines()) == 1
    assert (tmp_path / "a b" / "result.json").exists() == (times == 1)
    command = shlex.split(err.removeprefix("exml: interrupted; resume with: "))
    assert command == ["exml", *arguments, "--resume"]
    monkeypatch.undo()
    for name, factory in tiny.FACTORIES.items():
        monkeypatch.setitem(registry._FACTORIES, name, factory)
    assert call(capsys, *command[1:])[0] == 0


# Processes that are killed are forked from one that has imported everything, so that their time is spent at work.
NURSERY = """
import json, os, sys
import pytest
import torch._dynamo  # otherwise, each process imports it in its first optimizer
import exml.runs
from exml import cli
from exml.scenarios import registry
from tests import tiny
registry._FACTORIES.update(tiny.FACTORIES)
tiny.no_figures(pytest.MonkeyPatch())
torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os._exit(cli.main(json.loads(line)))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Starts command lines, one at a time, as processes that may be killed."""

    def __init__(self):
        command, env = [sys.executable, "-c", NURSERY], {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def start(self, arguments):
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        self.child = int(self.process.stdout.readline())

    def wait(self):
        """The exit code; -9 if the process was killed."""
        return int(self.process.stdout.readline())

    def kill(self, number=signal.SIGKILL):
        """Send a signal and wait."""
        os.kill(self.child, number)  # a process that has ended keeps its number until it is waited for
        return self.wait()

    def close(self):
        self.process.communicate("")


def test_kill_9_at_several_moments(tmp_path):
    """In the training of the experts, in generation, in distillation, and between two strategies."""
    training = exml.engine.Training(iterations=20, batch_size=8, learning_rate=0.003, optimizer="adam")
    tiny.inversion(training=training).save(tmp_path / "inversion.yaml")
    tiny.strategy(training=training, student="reset").save(tmp_path / "noise.yaml")
    chosen = f"{tmp_path / 'inversion.yaml'},{tmp_path / 'noise.yaml'}"
    whole, killed, nursery = tmp_path / "whole", tmp_path / "killed", Nursery()

    def start(out, *more):
        options = ["--strategy", chosen, "--checkpoint-every", "4", "--quiet", *more]
        nursery.start(["run", "tiny-nc", "--out", str(out), *options])

    start(whole)
    assert nursery.wait() == 0
    resume = []
    for file in (
        "run.json",
        "inversion/checkpoint/checkpoint.json",
        "inversion/checkpoint/memory-*.safetensors",
        "noise/stream.jsonl",
    ):
        start(killed, *resume)
        deadline = time.monotonic() + 120
        while not any(killed.glob(file)):
            assert time.monotonic() < deadline, f"no {file}"
            time.sleep(0.001)
        assert nursery.kill() == -9
        resume = ["--resume"]
    start(killed, *resume)
    assert nursery.wait() == 0
    nursery.close()
    for name in ("inversion", "noise"):
        for file in ("student.safetensors", "student.json"):
            assert (killed / name / file).read_bytes() == (whole / name / file).read_bytes()
    for path in (whole / "experts").iterdir():
        assert (killed / "experts" / path.name).read_bytes() == path.read_bytes()
    assert tiny.measured(killed) == tiny.measured(whole)
    assert not list(killed.rglob("*.part"))


PARTS = """
import attrs
import torch
import exml

@exml.models.register("{name}-net")
def net(channels=1, classes=2, image_size=8):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * image_size**2, classes))

@exml.component(kind="{name}-scale")
@attrs.frozen
class Scale:
    factor: float = 2.0

    def __call__(self, logits, known, /):
        return self.factor * logits
"""


@pytest.fixture
def parts(tmp_path, monkeypatch, request):
    """The name of a module in the current folder, and of what it registers."""
    name = "parts_" + re.sub(r"\W", "_", request.node.name)
    (tmp_path / f"{name}.py").write_text(PARTS.format(name=name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    sys.modules.pop(name, None)


def own_strategy(path, kind, imports=None):
    plain = tiny.strategy().to_dict()
    plain["normalizer"] = {"kind": f"{kind}-scale", "factor": 0.5}
    path.write_text(json.dumps(plain if imports is None else {"imports": imports, **plain}))


@pytest.mark.parametrize("option", ["--import NAME", "--import=NAME", "--import NAME.py", "imports", "imports file"])
def test_own_parts_run_from_the_command_line(option, tmp_path, parts, capsys):
    imports = {"imports": [parts], "imports file": [f"{parts}.py"]}.get(option)
    own_strategy(tmp_path / "mine.yaml", parts, imports)
    given = [] if imports else option.replace("NAME", parts).split()
    code, _, err = call(capsys, "run", "tiny-nc", "--strategy", tmp_path / "mine.yaml", "--out", tmp_path / "a", *given)
    assert (code, err) == (0, "")
    assert f"{parts}-net" in exml.models.names()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("nonesuch_parts", "to import the module nonesuch_parts"),
        ("nonesuch.py", "the file nonesuch.py at --import[0], got no such file; remedy: correct the path"),
        ("", "a module after --import"),
        ("bad.py", "ZeroDiv"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_error(module, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "bad.py").write_text("1 / 0")
    code, out, err = call(capsys, "scenarios", *(["--import", module] if module else ["--import"]))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_only_ones_own_file_imports(tmp_path, parts):
    own_strategy(tmp_path / "mine.yaml", parts, [parts])
    with pytest.raises(exml.ExmlError, match="imports"):
        exml.Strategy.from_yaml((tmp_path / "mine.yaml").read_text())
    assert parts not in sys.modules
    own_strategy(tmp_path / "mine.yaml", parts, parts)
    with pytest.raises(exml.ExmlError, match="a list"):
        exml.Strategy.load(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("run digit-nc --out new", "digits-nc"),
        ("run tiny-nc --out new --strategy model-inversoin", "model-inversion"),
        ("run tiny-nc --out new --strategy kind.yaml", "gaussian-noise"),
        ("learn experts --out new --student conv-nett", "conv-net"),
    ],
)
def test_a_name_that_is_almost_right_is_suggested(tmp_path, plain, capsys, monkeypatch, arguments, meant):
    monkeypatch.chdir(tmp_path)
    Path("kind.yaml").write_text(plain.read_text().replace("gaussian-noise", "gausian-noise"))
    code, _, err = call(capsys, *shlex.split(arguments))
    assert code == 2
    assert f"did you mean '{meant}'?" in err


def test_json_is_the_only_output(tmp_path, plain, capsys):
    out = tmp_path / "a"
    code, printed, _ = call(capsys, "run", "tiny-joint", "--out", out, "--strategy", plain, "--json")
    assert (code, json.loads(printed)) == (0, json.loads((out / "result.json").read_text()))
    code, printed, _ = call(capsys, "strategies", "--json")
    assert (code, json.loads(printed)) == (0, dict(RECIPES))
    code, printed, _ = call(capsys, "scenarios", "--json")
    assert (code, list(json.loads(printed))) == (0, list(exml.scenarios.names()))
    assert call(capsys, "scenarios", "--quiet") == (0, "", "")
    code, printed, err = call(capsys, "evaluate", out / "student.json", "--experts", out / "experts", "--json")
    assert (code, json.loads(printed)["kind"]) == (0, "agreement"), err


def test_the_completion_knows_commands_and_options(tmp_path, capsys):
    code, script, _ = call(capsys, "completion", "bash")
    assert code == 0
    assert "checkpoint-every" in script
    file = tmp_path / "exml.bash"
    file.write_text(script)
    asked = f'source {file}; COMP_WORDS=(exml repo); COMP_CWORD=1; _exml; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=False)
    assert "report" in done.stdout.split(), done
    assert call(capsys, "completion", "abacus")[0] == 2


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}])
def test_nothing_is_colored_when_piped_or_with_no_color(environment):
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    done = subprocess.run(
        [sys.executable, "-m", "exml", "strategies"], capture_output=True, env={**kept, **environment}, check=True
    )
    assert b"model-inversion" in done.stdout
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]", done.stdout)


def test_ctrl_c_during_an_import_is_silent():
    """The signal arrives while torch is being imported."""
    command = [sys.executable, "-X", "importtime", "-m", "exml", "strategies"]
    # A shell starts background jobs with the signal ignored, which the process would inherit.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stderr is not None
        seen = next(line for line in process.stderr if re.search(r"\| +torch\.", line))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert seen
    assert process.returncode == 130
    assert out == ""
    assert all(line.startswith("import time:") for line in err.splitlines()), err
