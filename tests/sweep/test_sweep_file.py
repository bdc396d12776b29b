"""The file of a sweep, its plan, and every mistake in it before any work begins."""

import attrs
import pytest
import yaml

from exml import cli
from exml.core.errors import CheckpointError, ConfigError, SettingError, UnknownNameError
from exml.priors import L2Norm, Sum
from exml.recipes import for_scenario
from exml.runs import Resources, sweep
from exml.runs.sweep import Choice, Sweep
from tests import tiny


def write(folder, text):
    (folder / "sweep.yaml").write_text(text)
    return folder / "sweep.yaml"


FILE = """
scenarios: [tiny-nc, tiny-mt]
strategies:
  - exml
  - noise.yaml
  - {strategy: inversion.yaml, fields: {generator.iterations: [2, 3], training.iterations: [9]}}
seeds: [0, 4]
fields:
  training.iterations: [5, 7]
split: validation
resources: {cpus: 2}
"""


def test_a_file_and_its_plan(folder):
    asked = Sweep.load(write(folder, FILE))
    assert asked.strategies == (
        "exml",
        str(folder / "noise.yaml"),
        Choice(
            str(folder / "inversion.yaml"),
            {"generator.iterations": (2, 3), "training.iterations": (9,)},
        ),
    )
    assert (asked.split, asked.resources) == ("validation", Resources(cpus=2))
    made = sweep.plan(asked)
    expected = [
        (scenario, strategy, fields, seed)
        for scenario in ("tiny-nc", "tiny-mt")
        for strategy, fields in [
            ("exml", {"training.iterations": 5}),
            ("exml", {"training.iterations": 7}),
            ("noise", {"training.iterations": 5}),
            ("noise", {"training.iterations": 7}),
            ("inversion", {"training.iterations": 9, "generator.iterations": 2}),
            ("inversion", {"training.iterations": 9, "generator.iterations": 3}),
        ]
        for seed in (0, 4)
    ]
    assert [(run.scenario, run.strategy, run.fields, run.seed) for run in made.runs] == expected
    assert made.columns == ("training.iterations", "generator.iterations")
    assert len({run.name for run in made.runs}) == 24
    assert made.runs[0].name == "tiny-nc--exml--training.iterations=5--seed=0"
    first, last = made.runs[3].parts, made.runs[-1].parts
    base = for_scenario("exml", "tiny-nc", 4).build()
    assert first == attrs.evolve(base, training=attrs.evolve(base.training, iterations=7))
    assert (last.training.iterations, last.generator.iterations) == (9, 3)
    assert {run.status for run in made.runs} == {"new"}


def test_a_sweep_goes_to_yaml_and_back(folder):
    asked = Sweep.load(write(folder, FILE))
    asked.save(folder / "elsewhere" / "sweep.yaml")
    assert Sweep.load(folder / "elsewhere" / "sweep.yaml") == asked
    plain = yaml.safe_load((folder / "elsewhere" / "sweep.yaml").read_text())
    assert plain["strategies"][1] == str(folder / "noise.yaml")


def test_a_value_may_be_a_whole_part(folder):
    text = """
    scenarios: [tiny-nc]
    strategies: [noise.yaml]
    fields:
      generator: [{kind: gaussian-noise, std: 0.5}, {kind: model-inversion, iterations: 2, batch_size: 4}]
      student: [reset]
    """
    made = sweep.plan(Sweep.load(write(folder, text)))
    assert [type(run.parts.generator).__name__ for run in made.runs] == ["GaussianNoise", "ModelInversion"]
    assert {run.parts.student for run in made.runs} == {"reset"}
    for run in made.runs:
        assert set(run.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.=-")
        assert len(run.name) < 200


def test_a_field_in_a_list(folder):
    tiny.inversion(prior=Sum((L2Norm(1.0), L2Norm(2.0)))).save(folder / "inversion.yaml")

    def planned(path):
        fields = {path: (5.0,)}
        return sweep.plan(Sweep(scenarios=("tiny-nc",), strategies=(str(folder / "inversion.yaml"),), fields=fields))

    (run,) = planned("prior.priors[1].weight").runs
    assert [part.weight for part in run.parts.prior.priors] == [1.0, 5.0]
    for path, complaint in {
        "prior.priors[2].weight": "where prior.priors is .*, got 'prior.priors",
        "prior.priors.weight": "where prior.priors is ",
        "prior.scale": "where prior has the fields kind, priors, got",
        "prior.priors[0].weight.unit": r"where prior.priors\[0\].weight is 1.0",
        "priors": "where it has the fields .*prior",
        "": "the path of a field",
        "prior..parts": "the path of a field",
    }.items():
        with pytest.raises(SettingError, match=complaint):
            planned(path)


@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ("strategies: null", ConfigError, "a list at strategies"),
        ("seed: [1]", ConfigError, "one of the keys .* at seed, got 'seed'"),
        ("scenarios: tiny-nc", ConfigError, "a list at scenarios, got 'tiny-nc'"),
        ("scenarios: []", ConfigError, "at least one value for Sweep.scenarios"),
        ("seeds: []", ConfigError, "at least one value for Sweep.seeds"),
        ("seeds: [-1]", ConfigError, "an integer >= 0"),
        ("seeds: [0.5]", ConfigError, r"type int at seeds\[0\], got 0.5"),
        ("strategies: [3]", ConfigError, r"at strategies\[0\]"),
        ("strategies: [{strategy: exml, field: {}}]", ConfigError, r"strategies\[0\].field"),
        ("fields: {a: 3}", ConfigError, r"a list at fields\[a\], got 3"),
        ("fields: {a: []}", ConfigError, r"one value for Sweep.fields\[a\]"),
        ("split: train", ConfigError, "'test', 'validation' at split"),
        ("compile: often", ConfigError, "'auto' at compile"),
        ("device: abacus", ConfigError, "a device as torch names it"),
        ("device: cuda", ConfigError, "resources.gpus > 0"),
        ("resources: {cpus: 0}", ConfigError, ">= 1 .*for Resources.cpus"),
        ("resources: {gpus: 1.5}", ConfigError, "or a whole number at resources, got 1.5"),
        ("scenarios: [mnist-xy]", UnknownNameError, "got 'mnist-xy'"),
        ("strategies: [magic]", UnknownNameError, "got 'magic'"),
        ("strategies: [absent.yaml]", ConfigError, "a strategy in .*absent.yaml"),
        ("strategies: [a/noise.yaml, noise.yaml]", SettingError, "both 'noise'"),
        ("strategies: [experts.yaml]", SettingError, "names of strategies that a folder can have.*'experts'"),
        ("strategies: [exml, exml]", SettingError, "each run once, got tiny-nc exml seed 0 twice"),
        ("seeds: [1, 1]", SettingError, "tiny-nc noise seed 1 twice"),
        ("fields: {generator.iterations: [1]}", SettingError, "'noise', where generator has the fields kind, std, got"),
        (
            "fields: {training.iterations: [5, 0]}",
            SettingError,
            "an integer >= 1 .*for Training.iterations .* in strategy 'noise' with training.iterations = 0, got 0",
        ),
        (
            "fields: {training.iterations: [many]}",
            SettingError,
            "type int at .*'noise' with training.iterations = many",
        ),
        ("fields: {buffer.size: [1]}", SettingError, "in strategy 'noise' with buffer.size = 1"),
        ("imports: [absent.py]", ConfigError, r"the file .*absent\.py at imports\[0\], got no such file"),
        ("imports: [no_such_module]", ConfigError, "ModuleNotFoundError"),
    ],
)
def test_mistakes_are_named_before_any_work(folder, changes, error, complaint):
    sound = {"scenarios": ["tiny-nc"], "strategies": ["noise.yaml"]}
    path = write(folder, yaml.safe_dump(sound | yaml.safe_load(changes)))
    with pytest.raises(error, match=complaint):
        sweep.run(Sweep.load(path), folder / "out")
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("scenarios: [", "expected a sweep as YAML in"),
        ("", "a mapping of Sweep's fields"),
        ("scenarios: [tiny-nc]", "add the key 'strategies'"),
    ],
)
def test_a_file_that_is_no_sweep(folder, text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Sweep.load(write(folder, text))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"a sweep as YAML in .*absent\.yaml, got .*No such file"):
        Sweep.load(tmp_path / "absent.yaml")


def test_a_module_of_ones_own_is_imported_once(folder):
    (folder / "once_only.py").write_text(
        "import exml\n@exml.component\n@__import__('attrs').frozen\nclass OnceOnly: ...\n"
    )
    asked = Sweep(scenarios=("tiny-nc",), strategies=("noise",), imports=(str(folder / "once_only.py"),))
    assert sweep.plan(asked) == sweep.plan(asked)


def test_the_plan_sees_how_far_each_run_is(folder, monkeypatch):
    tiny.no_figures(monkeypatch)
    asked = Sweep.load(write(folder, "{scenarios: [tiny-nc], strategies: [noise.yaml], seeds: [0, 1, 2, 3]}"))
    out = folder / "out"
    names = [run.name for run in sweep.plan(asked).runs]
    for name in names[:2]:
        tiny.run("tiny-nc", {"noise": tiny.strategy()}, out / "runs" / name, seed=int(name[-1]))
    (out / "runs" / names[1] / "result.json").unlink()
    (out / "failures").mkdir()
    (out / "failures" / f"{names[2]}.txt").write_text("broken\n")
    made = sweep.plan(asked, out)
    assert [run.status for run in made.runs] == ["done", "begun", "failed", "new"]
    assert [run.name for run in made.left()] == [names[1], names[3]]
    assert [run.name for run in made.left(retry_failed=True)] == names[1:]
    assert [made.count(status) for status in ("done", "begun", "failed", "new")] == [1, 1, 1, 1]

    tiny.strategy(student="reset").save(folder / "noise.yaml")
    with pytest.raises(CheckpointError, match=r"the strategy that the run in .* was begun with, got another one"):
        sweep.plan(asked, out)
    tiny.strategy().save(folder / "noise.yaml")
    with pytest.raises(CheckpointError, match="the split that the run"):
        sweep.plan(attrs.evolve(asked, split="validation"), out)


def test_the_plan_in_words_and_its_forecast(folder):
    asked = Sweep.load(write(folder, "{scenarios: [tiny-nc], strategies: [noise.yaml, inversion.yaml], seeds: [0, 1]}"))
    made = sweep.plan(asked)
    assert sweep.plan_line(made, (), {}, None) == "4 run(s); 0 to do."
    noise, inversion = ("tiny-nc", "noise"), ("tiny-nc", "inversion")
    words = "4 run(s); 4 to do: about 20 s of generation and distillation"
    assert sweep.plan_line(made, made.runs, {noise: 3.0, inversion: 7.0}, 1) == f"{words}."
    assert sweep.plan_line(made, made.runs, {noise: 3.0, inversion: 7.0}, 2) == f"{words}, 10 s with 2 at a time."
    assert sweep.plan_line(made, made.runs, {noise: 1.0, inversion: 9.0}, 9) == f"{words}, 9.0 s with 9 at a time."
    partly = sweep.plan_line(made, made.runs, {noise: 3.0, inversion: None}, None)
    assert partly.endswith("about 6.0 s of generation and distillation; 2 run(s) cannot be measured here.")
    seconds = sweep.sweep_forecast(asked, made.left())
    assert set(seconds) == {noise, inversion}
    assert all(0 < found < 60 for found in seconds.values())
    elsewhere = attrs.evolve(asked, device="cuda:7", resources=Resources(gpus=1))
    assert sweep.sweep_forecast(elsewhere, made.runs[:1]) == {noise: None}


def test_the_command_refuses_mistakes_and_forecasts_without_running(folder, capsys):
    path = write(folder, "{scenarios: [tiny-nc], strategies: [noise.yaml], seeds: [0, 1]}")
    command = ["sweep", str(path), "--out", str(folder / "out")]
    assert cli.main([*command, "--address", "auto"]) == 2
    assert "--backend ray" in capsys.readouterr().err
    assert cli.main([*command, "--dry-run", "--workers", "2"]) == 0
    shown = capsys.readouterr().out
    assert "tiny-nc" in shown
    assert "2 run(s); 2 to do: about" in shown
    assert "with 2 at a time" in shown
    assert not (folder / "out").exists()
