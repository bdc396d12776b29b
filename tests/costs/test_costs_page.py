"""The page about costs is made of one result, and tells where the model errs."""

import json

import attrs
import costs_page
import pytest

import exml
from exml.costs import Link, Sizes, at_speed, count
from tests import tiny


@pytest.fixture(scope="module")
def found():
    return json.loads(costs_page.RESULT.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def text(found):
    return costs_page.page(found)


def test_the_page_is_what_the_measurements_say(text):
    assert costs_page.PAGE.read_text(encoding="utf-8") == text


def test_every_run_is_on_the_page_with_where_it_was_made(found, text):
    for stage in ("times", "ranks", "memory"):
        place = found[stage]["environment"]
        assert f"--stages {stage}` at commit {place['commit']} on {place['hardware']}; {place['threads']} thr" in text
        for name, row in found[stage]["rows"].items():
            assert f"| {name} | " in text
            assert row["n"] >= 1
    assert text.count("measured on a GPU yet") == 2


def test_each_case_changes_one_thing_of_its_base(found):
    for stage in ("times", "memory"):
        base = found[stage]["rows"]["base"]["case"]
        for name, row in found[stage]["rows"].items():
            changed = {key for key, value in row["case"].items() if value != base[key]}
            assert len(changed - {"buffer", "iterations"}) <= 1, name
    assert {row["case"]["experts"] for row in found["times"]["rows"].values()} == {4, 16}


def entry(ratio, **changes):
    one = {"measured": 2.0, "spread": [1.0, 3.0], "predicted": 2.0 * ratio, "ratio": ratio}
    return {"n": 3, "operations": 8.0, **{key: {**one, **changes} for key in ("seconds", "generation", "distillation")}}


def test_where_it_errs_is_told():
    rows = {"base": entry(1.0), "good": entry(1.14), "bad": entry(0.5)}
    said = costs_page._misses(rows, ("seconds",))
    assert said == "It errs by more than 15 % at: bad (seconds 0.50)."
    assert costs_page._misses({"base": entry(0.86)}, ("seconds",)) == "Nowhere does it err by more than 15 %."
    assert "| bad | 2 | 1 – 3 | 1 | 0.50 | 0.50 | 0.50 | 3 |" in costs_page._seconds(rows)
    assert costs_page._growth(rows)[2:] == ["| good | 1.00 | 1.14 | 1.00 |", "| bad | 1.00 | 0.50 | 1.00 |"]


def test_the_plan_is_the_models(found, text):
    """One number of the plan, worked out by hand from what was counted and assumed."""
    plan, sizes = found["plan"], found["plan"]["sizes"]
    speed = costs_page.PEAK * costs_page.SHARE
    training = plan["strategy"]["training"]
    flops = sizes["training_flops"] + sizes["expert_flops"] + sizes["student_flops"]
    step = costs_page.STEP + training["batch_size"] * flops / speed
    later = 9_999 * training["iterations"] * step
    first = training["iterations"] * (step - training["batch_size"] * sizes["student_flops"] / speed)
    (row,) = (line for line in text.splitlines() if line.startswith("| 10,000 |"))
    assert f"| {costs_page._number((first + later) / 3_600)} |" in row
    images = sum(20_000 // i for i in range(1, 10_001))
    assert f"| {images:,} |" in row
    assert "| `Cumulative(size=5000)` | refused |" in text


def test_sizes_come_back_from_their_file():
    expert = tiny.make("tiny-nc", 0, "test").make_module(0)
    strategy = tiny.inversion()
    sizes = count(strategy, exml.Expert(expert, (0, 1), (1, 4, 4), outputs=range(4)), expert)
    again = costs_page._sizes(json.loads(json.dumps(attrs.asdict(sizes))))
    assert isinstance(again, Sizes)
    rates = [at_speed(strategy, each, flops_per_second=1e9, step=1.0, link=Link(1.0)) for each in (sizes, again)]
    assert rates[0] == rates[1]
    assert rates[0].later.step.each == pytest.approx((sizes.training_flops + sizes.view_flops(2)) / 1e9)
    assert rates[0].generation[0].step.fixed == rates[0].first.step.fixed == 1.0
