"""The pages of measurements: made of the committed results and of nothing else, with conditions, losses and wins."""

import json
import re
from pathlib import Path

import ablation
import deviations
import make_pages
import pages
import pytest
import torch
import yaml

from exml import recipes
from exml.combiners import MultiTask
from exml.core.samples import Samples
from exml.core.targets import TeacherLogits
from tests.helpers import PAPER_SHAPES, profile

ROOT = Path(__file__).parents[1]
PAGES = {page.name: page for page in make_pages.PAGES}
CONDITIONS = re.compile(r"Made by `.+` at commit .+ on .+; \d( or \d)* thread\(s\).*; .*torch \d")

CASES = yaml.safe_load((ROOT / "tests" / "pages.yaml").read_text(encoding="utf-8"))
PLACE = {"hardware": "A processor", "threads": 1, "versions": {"torch": "2.15.0"}, "commit": "abc1234"}


@pytest.fixture(params=PAGES)
def page(request):
    return PAGES[request.param]


def test_the_page_is_what_the_results_say(page):
    assert page.path.read_text(encoding="utf-8") == page.text(page.read())


def test_a_result_is_kept_and_the_page_written_again_does_not_change(page, tmp_path, monkeypatch):
    measured = page.read()
    for folder in ("docs", "benchmarks/results"):
        (tmp_path / folder).mkdir(parents=True)
    before = page.path.read_text(encoding="utf-8")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "RESULTS", tmp_path / "benchmarks" / "results")
    page.path.parent.mkdir(exist_ok=True)
    page.path.write_text(before, encoding="utf-8")
    for name, found in measured.items():
        page.record(name, found)
    assert page.path.read_text(encoding="utf-8") == before
    assert page.read() == measured


def test_a_missing_result_says_so(page):
    text = page.text({})
    assert len(re.findall(r"^Not measured.* yet. To measure it, run `", text, re.MULTILINE)) == len(page.results)
    assert "Made by" not in text


def test_every_result_has_its_conditions(page):
    """Hardware, threads, versions and commit for each, made by a script that exists."""
    found = page.read()
    made = re.findall(r"Made by .*", " ".join(page.text(found).split()).replace("Made by", "\nMade by"))
    assert len(made) == len(found)
    for text in made:
        assert CONDITIONS.match(text), text
    for command in re.findall(r"(?:Made by|To measure it, run) `([^`]+)`", page.text(found) + page.text({})):
        scripts = [word for word in command.split() if word.endswith((".py", ".sh"))]
        assert scripts, command
        assert all((ROOT / script).exists() for script in scripts), command


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["result"])
def test_losses_and_failures_are_reported(case):
    # A key of JSON is a string.
    found = PLACE | json.loads(json.dumps(case["found"]))
    texts = [page.make({case["result"]: found}) for page in PAGES.values() if case["result"] in page.results]
    text = " ".join(" ".join(texts).split())
    for words in case["says"].splitlines():
        assert " ".join(words.split()) in text
    for words in case.get("omits", []):
        assert words not in text


@pytest.fixture
def without_data(monkeypatch):
    """Recipes for scenarios whose experts are like the paper's; no data are read."""

    def for_scenario(name, scenario, seed=0):
        dataset, _, kind = scenario.partition("-")
        return recipes.recipe(name, profile(image_shape=PAPER_SHAPES[dataset], tasks=kind == "mt"))

    monkeypatch.setattr(recipes, "for_scenario", for_scenario)


@pytest.mark.usefixtures("without_data")
def test_36_cells_that_differ_in_four_parts_and_share_their_images():
    made = [make(0).to_dict() for make in ablation.cells("mnist-nc", 0.005, 0.01).values()]
    assert len({str(plain) for plain in made}) == len(made) == 36
    varied = ("normalizer", "combiner", "augmentation", "loss")
    assert len({str({name: plain[name] for name in plain if name not in varied}) for plain in made}) == 1
    assert {plain["loss"]["cross_entropy"] for plain in made} == {0.0, 1.0}


@pytest.mark.usefixtures("without_data")
def test_tasks_stay_apart_in_every_cell():
    strategies = [make(0) for make in ablation.cells("cifar10-mt", 0.005, 0.01).values()]
    assert {strategy.combiner.tasks for strategy in strategies} == {((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))}
    assert {type(strategy.combiner.combiner).__name__ for strategy in strategies} == {"ByClass", "ProductOfExperts"}
    assert {strategy.student for strategy in strategies} == {"first-expert"}


def test_within_tasks_side_by_side_is_eq_8():
    """This is why the ablation of tasks has no column for it."""
    known = torch.tensor([True, False, True, False])
    heads = [TeacherLogits(torch.randn(6, 4), mask, mask) for mask in (known, ~known)]
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    samples = Samples(torch.zeros(6, 1, 2, 2), labels, labels % 2, 1 + labels % 2)
    names = ("side by side", "Eq. 8")
    ours, theirs = (MultiTask(((0, 2), (1, 3)), ablation.COMBINERS[name])(*heads, samples) for name in names)
    for part in ("logits", "defined", "candidates"):
        assert torch.equal(getattr(ours, part), getattr(theirs, part))


def test_margins_are_means_over_whole_rows_of_the_grid():
    """By hand: two normalizers with all that belongs to them, of the third one cell diverged."""
    accuracy = {name: {"0": 10.0} for name in ablation.cells("mnist-nc", 0.005, 0.01)}
    for combiner in ablation.COMBINERS:
        for weight in ablation.WEIGHTS:
            accuracy[ablation.name_of("centred", combiner, "augmented", weight)] = {"0": 30.0}
    accuracy[ablation.name_of("standardised", "Eq. 8", "not augmented", 1.0)] = {"0": "diverged"}
    rows = {(part, value): mean for part, value, mean in ablation.margins("mnist-nc", accuracy)}
    # Of 12 rows 11 are whole; in 6 of them "centred" has 30, in 5 it has 10.
    assert rows["normalizer", "centred"] == f"{(6 * 30 + 5 * 10) / 11:.1f}"
    assert rows["normalizer", "none"] == rows["normalizer", "standardised"] == "10.0"
    assert rows["augmentation", "augmented"] == f"{(6 * 30 + 11 * 10) / 17:.1f}"
    sizes = {"buffer": 354, "inversion": 212, "distillation": 300}
    found = PLACE | {
        "scenario": "mnist-nc",
        "budget": {"images": 0.005, "steps": 0.01},
        "sizes": sizes,
        "accuracy": accuracy,
    }
    text = "\n".join(ablation.section(found))
    assert "| standardised | not augmented | 10.0 | diverged | 10.0 | 10.0 | 10.0 | 10.0 |" in text
    assert "at commit abc1234 on A processor; 1 thread(s); torch 2.15.0." in text


def test_every_deviation_is_measured_or_says_why_not():
    measured = deviations.PAGE.read()[deviations.RESULT]["accuracy"]
    for matter in deviations.MATTERS:
        assert bool(matter.cells) != bool(matter.otherwise), matter.name
        for how in matter.cells:
            assert measured[deviations.slug(matter.name, how)], (matter.name, how)


@pytest.mark.usefixtures("without_data")
def test_each_deviation_changes_its_own_matter():
    """Against the base of its row: one part of the strategy, or the generator with its augmentation."""
    made = {name: make(0).to_dict() for name, make in deviations.cells().items()}
    assert all(list(made.values()).count(plain) == 1 for plain in made.values())
    for matter in deviations.MATTERS[:-1]:
        for how in matter.cells:
            plain, base = made[deviations.slug(matter.name, how)], made[matter.base]
            changed = {name for name, value in plain.items() if value != base[name]}
            assert len(changed - {"augmentation"}) <= 1, (matter.name, how)
