"""The page *Results*: one table over all streams, and every strategy on the embedded scenarios.

The rows come from ``benchmarks/streams.py`` and ``benchmarks/strangers.py``, the rest from ``benchmarks/digits.py``.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import digits
from page_parts import conditions
from pages import Found, Page, made_by, mean, missing, sentence, table, wrap

STREAMS = {
    "streams.json": (
        "mnist-joint",
        "mnist-nc",
        "mnist-nc, start unknown",
        "mnist-nc, own starts",
        "mnist-nc, Adam",
        "fashion-joint",
        "fashion-nc",
        "cifar10-joint",
        "cifar10-nc",
        "cifar10-mt",
        "digits-joint",
        "digits-nc",
        "digits-mt",
        "digits-ni",
    ),
    "strangers.json": ("same classes", "domains", "overlapping", "photographs", "one ResNet", "gray and color"),
}
"""The streams that the page must have, in this order; those without a measurement are listed as such."""
COMMANDS = {
    "streams.json": "uv run python benchmarks/streams.py SCENARIO --seeds 0,1,2",
    "strangers.json": "uv run python benchmarks/strangers.py",
}
TITLES = {
    "streams.json": "## Scenarios",
    "strangers.json": "## Other people's experts",
}
INTRODUCTION = {
    "streams.json": (
        "A seed decides the order of the classes, the experts and the student. The experts of a scenario start from "
        "the same weights, which the learner knows, except for *start unknown*; *own starts* gives each expert initial "
        "weights of its own, and *Adam* trains them by Adam in place of SGD. † marks experts whose settings, listed "
        "below the table, are not those of appendix A."
    ),
    "strangers.json": (
        "*same classes*: three networks for MNIST. *domains*: one for MNIST, one for Fashion-MNIST, 20 classes. "
        "*overlapping*: a perceptron for the digits 0 to 4, a network with batch norm for 3 to 7, a LeNet-5 for 6 to "
        "9. *photographs*: two ResNets for CIFAR-10, and a smaller student. *one ResNet*: the first of "
        "these alone. *gray and color*: the first network for MNIST, the first ResNet, and a student of 20 classes on "
        "color images of 32 pixels. Each order of the experts is a row of n."
    ),
}
EARLIER = "of an earlier version"
"""The strategy of rows that were measured before their strategy was noted."""
HEAD = ("|", "stream|", "n", "best ensemble", "oracle", "target", "student", "recovered gap", "agreement", "s")


def page(results: Mapping[str, Found]) -> str:
    """The page, from the measurements by file name."""
    lines = [
        "# Results",
        "",
        *wrap(
            "Accuracy of the default strategy in percent on complete test sets, mean ± standard deviation over n seeds "
            "or orders. *Best ensemble* is the best of six ways to combine all experts without learning. *Oracle* runs "
            "only the expert that knows the class of an image. *Target* is the accuracy of what the student learns to "
            "predict, computed for the test images with all experts at hand, and *recovered gap* is (student - best "
            "ensemble) / (oracle - best ensemble); both are diagnoses that need data "
            "({py:class}`exml.runs.TargetAudit`). *Agreement* needs none; its images changed at commit 54d68e4, and "
            "rows of earlier commits have that of other images. Seconds are processor time of the student's training "
            "on one thread. ▼ marks a student below the best ensemble."
        ),
    ]
    for name, expected in STREAMS.items():
        lines += ["", TITLES[name], "", *wrap(INTRODUCTION[name]), ""]
        lines += (
            _rows(results[name]["rows"], expected, COMMANDS[name]) if name in results else [missing(COMMANDS[name])]
        )
    return "\n".join([*lines, "", "## Every strategy on the embedded scenarios", "", *digits.section(results)]) + "\n"


def _rows(measured: Mapping[str, Found], expected: Sequence[str], command: str) -> list[str]:
    by_stream: dict[str, list[Found]] = {}
    for row in measured.values():
        by_stream.setdefault(row["stream"], []).append(row)
    order = [name for base in expected for name in by_stream if _base(name) == base]
    order += [name for name in by_stream if name not in order]
    absent = [base for base in expected if all(_base(name) != base for name in order)]
    cells = [_cells(name, by_stream[name]) for name in order]
    lost = [
        f"{_shown(name)} by {-gap:.1f} points"
        for name in order
        for gap in [_above(by_stream[name])]
        if round(gap, 1) < 0
    ]
    reasons = {row["no_target"]: name for name in order for row in by_stream[name] if row.get("no_target")}
    notes = [sentence("Below the best ensemble", lost, "No student is below the best ensemble.")]
    settings: dict[str, list[str]] = {}
    for name in order:
        if name != _base(name):
            settings.setdefault(name.partition(":")[2].partition(", ")[0], []).append(_base(name))
    notes += [f"† {' and '.join(names)}: {given.replace(',', ', ')}." for given, names in settings.items()]
    notes += [f"No target for {name} and the like: {reason}." for reason, name in reasons.items()]
    notes += [sentence("Not measured", absent, "")] if absent else []
    earlier = [name for name in order if any(row.get("strategy") == EARLIER for row in by_stream[name])]
    notes += [sentence("With the default strategy of an earlier version", earlier, "")] if earlier else []
    return [
        *table(HEAD, cells),
        "",
        *wrap(" ".join(notes)),
        "",
        *wrap(made_by(command, conditions({"rows": measured}))),
    ]


def _base(name: str) -> str:
    """The name without the settings of the experts: ``mnist-nc:epochs=4, Adam`` is one of ``mnist-nc, Adam``."""
    scenario, comma, variant = name.partition(", ")
    return f"{scenario.partition(':')[0]}{comma}{variant}" if "=" not in variant else scenario.partition(":")[0]


def _shown(name: str) -> str:
    return name if name == _base(name) else f"{_base(name)} †"


def _above(rows: Sequence[Found]) -> float:
    """How far the mean student is above the mean of the best ensembles."""
    return statistics.fmean(row["student"] - row["ensemble"] for row in rows)


def _cells(name: str, rows: Sequence[Found]) -> tuple[Any, ...]:
    def cell(key: str, digits: int = 1) -> str:
        values = [row[key] for row in rows if row[key] is not None]
        if not values:
            return "–"
        return mean(values) if digits else f"{statistics.fmean(values):.0f}"

    gaps = [row["recovered_gap"] for row in rows if row["recovered_gap"] is not None]
    gap = f"{statistics.fmean(gaps):.2f}" if gaps else "–"
    shown = [cell(key) for key in ("ensemble", "oracle", "target", "student")]
    mark = "▼" if round(_above(rows), 1) < 0 else ""
    return mark, _shown(name), len(rows), *shown, gap, cell("agreement", 0), cell("processor_seconds", 0)


PAGE = Page("results.md", (*STREAMS, digits.RESULT), page)
