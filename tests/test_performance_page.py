"""The page about speed is made of the measurements and of nothing else, and tells losses as well as wins."""

from pathlib import Path

import performance
import pytest

ROOT = Path(__file__).parents[1]

PLACE = {
    "hardware": "A processor, A GPU",
    "device": "cuda",
    "threads": 4,
    "versions": {"torch": "2.11.0"},
    "commit": "abc1234",
    "complete": True,
}


def part(name, found):
    """What the page says of one file, from its heading to the next."""
    page = performance.page({name: found})
    (section,) = (text for text in page.split("\n### ") if "Made by" in text)
    return section.split("\n## ")[0]


def test_the_page_is_what_the_measurements_say():
    found = performance.read(ROOT / "benchmarks" / "results")
    assert (ROOT / "docs" / "performance.md").read_text(encoding="utf-8") == performance.page(found)


def test_what_was_not_measured_says_so():
    page = performance.page({})
    files = [(device, *file) for section in performance.SECTIONS for device, file in section.files.items()]
    assert len(files) == 15
    assert page.count("Not measured on a GPU yet") == sum(device == "cuda" for device, *_ in files) == 8
    assert page.count("Not measured on a CPU yet") == 6
    assert "Made by" not in page
    for _, _, command in files:
        assert command in page


def test_commands_on_the_page_are_there():
    for section in performance.SECTIONS:
        for _, command in section.files.values():
            scripts = [word.strip("`") for word in command.split() if word.strip("`").endswith((".py", ".sh"))]
            assert scripts or "benchmarks/kernels" in command
            for script in scripts:
                assert (ROOT / script).exists(), script


def test_ratios():
    rows = {
        "inversion": {
            "ours_ms": 110.0,
            "bare_ms": 100.0,
            "ratio": 1.1,
            "n": 15,
            "spread": [1.08, 1.13],
            "bare_form": "x",
        },
        "distillation": {"ours_ms": 9, "bare_ms": 10, "ratio": 0.9, "n": 15, "spread": [0.8, 1.0], "bare_form": "y"},
        "time": {"ratio": None, "reason": "not measured yet: do it"},
        "memory": {"ours_mb": 300.0, "bare_mb": 240.0, "ratio": 1.25, "ratio_to_folded": 2.5, "n": 1, "spread": []},
    }
    said = part("ratios_cpu.json", {"environment": {"hardware": "CPU", "threads": 1, "torch": "2.15.0"}, "rows": rows})
    assert "at commit not noted on CPU; 1 thread(s); torch 2.15.0." in said
    assert "| inversion | 110 | 100 | 1.1 | 1.08 – 1.13 | 15 | x |" in said
    assert "| distillation | 9 | 10 | 0.9 | 0.8 – 1 | 15 | y |" in said
    assert "Slower than what it is compared with: inversion by 10 %." in said
    assert "Memory: 300 MiB at most beside 240 MiB" in said
    assert "2.5 times that of a bare step with batch norm folded." in said
    assert "time: not measured yet: do it." in said


def kernel(version, median, iqr, **changes):
    what = {"kernel": "blur", "case": "8x1x4x4", "dtype": "float32", "memory_format": "channels_last", "mode": "eager"}
    return {**what, "version": version, "device": "cuda", "median_ms": median, "iqr_ms": iqr, "n": 9, **changes}


def test_a_faster_competitor_is_marked_and_told():
    machine = {"cpu": "A processor", "accelerator": "A GPU", "threads": 1, "torch": "2.11.0", "commit": "abc1234+"}
    rows = [kernel("ours", 2.0, 0.1), kernel("kornia", 1.0, 0.1), kernel("plain_torch", 3.0, 0.1)]
    rows += [kernel("ours", 2.0, 0.3, case="other"), kernel("kornia", 1.9, 0.1, case="other")]
    rows += [kernel("ours", 1.0, 0.1, case="third"), kernel("kornia", 1.9, 0.1, case="third")]
    rows += [kernel("ours", 1.0, 0.1, mode="compiled")]
    said = part("kernels_cuda.json", {"machine": machine, "rows": rows, "failed": ["test_x.py"], "complete": False})
    assert "at commit abc1234+ (+: with changes that were not committed) on A processor, A GPU; 1 thread(s)" in said
    assert "**Not complete.**" in said
    assert "|  | case | place | ours | kornia | plain torch |" in said
    assert "| ▼ | 8x1x4x4 | float32, channels last | 2 ± 0.05 | 1 ± 0.05 | 3 ± 0.05 |" in said
    assert "| ▽ | other | float32, channels last | 2 ± 0.15 | 1.9 ± 0.05 | – |" in said
    assert "|  | third |" in said
    assert "|  | 8x1x4x4 | float32, channels last, compiled | 1 ± 0.05 | – | – |" in said
    assert (
        "Faster than ours: kornia 2.00 times at 8x1x4x4 (float32, channels last); "
        "kornia 1.05 times at other (float32, channels last, within the spread)." in said
    )
    assert "Failed: test_x.py." in said
    said = part("kernels_cpu.json", {"machine": {**machine, "accelerator": "none"}, "rows": rows[-3:]})
    assert "Nothing here is faster than ours." in said
    assert "on A processor; 1" in said


def test_forms_of_execution():
    row = {"loop": "inversion", "model": "lenet5", "batch": 512, "n": 9, "spread": [1.9, 2.1], "peak_mib": 100.0}
    row |= {"precision": "float32", "fell_back": []}
    rows = [
        {**row, "form": "never", "median": 2.0},
        {**row, "form": "always", "median": 1.0, "launches": {"graph_launches": 1.0, "kernel_launches": 4.0}},
        {**row, "form": "auto", "median": 2.5, "fell_back": ["this step cannot be captured"]},
        {
            "loop": "inversion",
            "model": "lenet5",
            "batch": 9,
            "form": "auto",
            "precision": "bfloat16",
            "error": "none left",
        },
    ]
    said = part("modes_cuda.json", {**PLACE, "rows": rows})
    assert "| inversion lenet5 512 | never | float32 | 2 | 1.9 – 2.1 | 9 | 1 | 100 | – | – |" in said
    assert "| inversion lenet5 512 | always | float32 | 1 | 1.9 – 2.1 | 9 | 2 | 100 | 1 | 4 |" in said
    assert "Slower than eager float32: inversion lenet5 512, auto, float32, 1.25 times the time." in said
    assert "Could not be had: inversion lenet5 512, auto, float32: this step cannot be captured; " in said
    assert "inversion lenet5 9, auto, bfloat16: none left." in said


def test_failed_checks_are_told():
    checks = {
        "the same": {"passed": True, "tolerance": 0.02, "difference": 1e-5, "fell_back": []},
        "no waiting": {"passed": False, "error": "a | b\nc"},
        "launches": {"passed": None, "reason": "needs a GPU"},
    }
    said = part("correctness_cuda.json", {**PLACE, "checks": checks})
    assert "| the same | passed | tolerance 0.02; difference 1e-05 |" in said
    assert "| no waiting | **failed** | error a \\| b c |" in said
    assert "| launches | not checked | reason needs a GPU |" in said
    assert "Failed: no waiting." in said
    assert "Nothing failed." in part("correctness_cuda.json", {**PLACE, "checks": {"the same": checks["the same"]}})


def test_one_pass():
    row = {"model": "lenet5", "batch": 32, "mode": "eager", "loop_ms": 10.0, "one_pass_ms": 12.0, "n": 15}
    slower = {**row, "ratio": 1.2, "spread": [0.99, 1.3]}
    faster = {**row, "mode": "captured", "ratio": 0.5, "spread": [0.4, 0.6]}
    said = part("one_pass_cpu.json", {**PLACE, "rows": [slower]})
    assert "| lenet5, 32 images | eager | 10 | 12 | 1.2 | 0.99 – 1.3 | 15 |" in said
    assert "nowhere faster by more than the spread, so the engine has no such option." in said
    said = part("one_pass_cuda.json", {**PLACE, "rows": [slower, faster]})
    assert "The one pass is faster for: lenet5, 32 images, captured, 2.00 times as fast." in said


def comparison(*ratios, whole=-0.5, best=0.7):
    def spread(value):
        return {"median": value, "least": value - 1, "greatest": value + 1}

    row = {f"{side}_{key}": spread(50.0) for side in ("straightforward", "exml") for key in ("accuracy", "seconds")}
    row |= {"budget": 0.05, "n": len(ratios), "ratio_of_whole_times": spread(2.0)}
    row |= {"ratio": None if None in ratios else spread(ratios[0])}
    runs = [
        {"seed": seed, "ratio": ratio, "ratio_of_whole_times": 1 + whole, "ratio_to_best": best}
        for seed, ratio in enumerate(ratios)
    ]
    return {**row, "runs": runs}


def test_time_to_accuracy():
    found = {"commits": ["abc1234", "def5678"], "environments": [PLACE, PLACE | {"hardware": "Another"}]}
    said = part("time_to_accuracy.json", found | {"scenarios": {"mnist-nc": [comparison(0.5, 1.5), comparison(None)]}})
    assert "on A processor, A GPU; Another; 4 thread(s)" in said
    assert "| mnist-nc | 5 % | 2 | 50 (49 – 51) |" in said
    assert "| not reached | 2 (1 – 3) |" in said
    assert "mnist-nc at 5 % of the paper's budget, ours is later there (seed 1)" in said
    assert "ours ends below it (seed 0)" in said
    assert "as a whole" not in said
    assert "best on its way" not in said
    losing = comparison(0.5, 0.6, whole=0.5, best=None)
    said = part("time_to_accuracy.json", found | {"scenarios": {"mnist-nc": [losing]}})
    assert "ours takes longer as a whole (seed 0, 1)" in said
    assert "ours ends below the best on its way (seed 0, 1)" in said
    said = part("time_to_accuracy.json", found | {"scenarios": {"mnist-nc": [comparison(0.5)]}})
    assert "In every run ours reaches the best accuracy of the straightforward version" in said
    assert "Where ours" not in said


@pytest.mark.parametrize(
    ("ratio", "gain", "words"),
    [
        (0.5, 0.1, "Faster and not less accurate: bank."),
        (0.5, -0.1, "Faster, but less accurate: bank."),
        (1.5, 2.0, "Not faster: bank."),
    ],
)
def test_options(ratio, gain, words):
    row = {"what": "as it is", "accuracy": [90.0, 92.0], "generation_s": [1.0, 1.0], "distillation_s": [3.0, 3.0]}
    rows = {
        "base": {**row, "time_ratio": 1.0, "accuracy_gain": 0.0},
        "bank": {**row, "what": "a bank", "time_ratio": ratio, "accuracy_gain": gain},
    }
    found = {**PLACE, "scenario": "digits-nc", "split": "validation", "seeds": [0, 1], "rows": rows}
    said = part("options_cpu.json", found)
    assert "digits-nc, validation images, mean ± standard deviation over the seeds 0, 1." in said
    assert "| base | as it is | 91.0 ± 1.4 | 1.0 ± 0.0 | 3.0 ± 0.0 | +0.0 | 1 |" in said
    assert words in said
    assert said.count("bank.") == 1


def test_paper_scale():
    found = {
        **PLACE,
        "scale": 0.2,
        "compile": "auto",
        "precision": "float32",
        "resumed": True,
        "n": 1,
        "experiences": {"1": {"generation": 20.0, "distillation": 100.0}, "2": {"distillation": 101.0}},
        "seconds": {"generation": 20.0, "distillation": 201.0},
        "accuracy": 55.0,
    }
    said = part("paper_scale_cuda.json", found)
    assert "20 % of the paper's iterations and buffer, compile 'auto', float32, n = 1" in said
    assert "gone on with once or more" in said
    assert "| 2 | 0.0 | 101.0 |" in said
    assert "| all | 20.0 | 201.0 |" in said
