"""What is published of a kernel benchmark is what was measured, in milliseconds."""

import importlib
import json
import sys

import pages
import pytest

WHAT = {
    "kernel": "blur",
    "case": "512x1x32x32",
    "version": "ours",
    "device": "cpu",
    "dtype": "float32",
    "memory_format": "contiguous",
    "mode": "eager",
}
MEASURED = {
    "machine_info": {
        "cpu": {"brand_raw": "A processor"},
        "processor": "x86_64",
        "accelerator": "none",
        "torch_threads": 1,
        "python_version": "3.11.7",
        "versions": {"torch": "2.9.0", "kornia": "0.8.2"},
    },
    "commit_info": {"id": "0123456789abcdef", "dirty": False},
    "benchmarks": [
        {
            "extra_info": WHAT | {"aten_ops": 12, "launches": None, "peak_bytes": None},
            "stats": {"median": 0.0123456789, "iqr": 0.001, "rounds": 9, "data": [0.0123456789]},
        },
        {"extra_info": {"steps_per_round": 2}, "stats": {"median": 1.0, "iqr": 0.0, "rounds": 7}},
    ],
}


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.delitem(sys.modules, "kernels", raising=False)  # a library may have looked for a package of this name
    monkeypatch.syspath_prepend(pages.ROOT / "benchmarks" / "gpu")
    return importlib.import_module("kernels")


def test_keeps_the_machine_and_one_row_per_kernel(kernels):
    reduced = kernels.reduce(MEASURED)
    assert reduced["rows"] == [WHAT | {"median_ms": 12.3457, "iqr_ms": 1.0, "n": 9, "aten_ops": 12}]
    assert reduced["machine"] == {
        "cpu": "A processor",
        "accelerator": "none",
        "threads": 1,
        "python": "3.11.7",
        "torch": "2.9.0",
        "kornia": "0.8.2",
        "commit": "0123456",
    }


def test_says_that_the_measured_code_was_not_the_commit(kernels):
    changed = MEASURED | {"commit_info": {"id": "0123456789abcdef", "dirty": True}}
    assert kernels.reduce(changed)["machine"]["commit"] == "0123456+"


@pytest.mark.parametrize("path", sorted(pages.RESULTS.glob("kernels_*.json")), ids=lambda p: p.name)
def test_published_measurements_name_all_that_they_need(path):
    published = json.loads(path.read_text(encoding="utf-8"))
    assert {"cpu", "accelerator", "threads", "torch", "kornia", "commit"} <= set(published["machine"])
    for row in published["rows"]:
        assert {*WHAT, "median_ms", "iqr_ms", "n"} <= set(row)
        assert row["n"] >= 7
