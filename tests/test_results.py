"""The published page is made of the measurements and of nothing else."""

import json
from pathlib import Path

import digits

ROOT = Path(__file__).parents[1]
MEASURED = json.loads((ROOT / "benchmarks" / "results" / "digits.json").read_text(encoding="utf-8"))


def test_the_page_is_what_the_measurements_say():
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == digits.page(MEASURED)


def test_losses_stand_beside_wins():
    table = {
        "exml": {
            "seeds": [0, 1],
            "accuracy": [50.0, 60.0],
            "forgetting": [],
            "ex_model": True,
            "reason": None,
        },
        "Oracle": {
            "seeds": [0, 1],
            "accuracy": [99.0, 99.0],
            "forgetting": [],
            "ex_model": False,
            "reason": None,
        },
        "noise": {
            "seeds": [0, 1],
            "accuracy": [10.0, 10.0],
            "forgetting": [],
            "ex_model": True,
            "reason": None,
        },
    }
    page = digits.page({**MEASURED, "scenarios": {"made-up": table}})
    assert "Better than the default strategy, `exml`: Oracle by 44.0 points." in page
    assert "| ● | exml | 2 | 55.0 ± 7.1 | – |" in page
    assert page.index("Oracle") < page.index("| exml") < page.index("| noise")
