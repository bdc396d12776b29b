"""The page about speed, made of the measurements that there are.

    uv run python benchmarks/performance.py

Reads what the scripts of this folder have written to ``benchmarks/results/`` and writes ``docs/performance.md``. Every
number on the page comes from there; the page also names the script that makes it again. What was not measured says so.
"""

from __future__ import annotations

import json
import os
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
DEVICES = {"cpu": "on a CPU", "threads": "on a CPU, two threads", "cuda": "on a GPU"}
Found: TypeAlias = Mapping[str, Any]

INTRODUCTION = """\
# Performance

Two loops take all the time of a run: the optimisation of pixels (inversion) and the training of the student
(distillation). This page says what a step of each costs and beside what, where exml is slower than something else, and
how every number is made again. It is written by `uv run python benchmarks/performance.py` from the files in
`benchmarks/results/`; `benchmarks/run_on_gpu.sh` makes those of a GPU.

## What a step is compared with

The **bare step** is the least that the same mathematics needs. For inversion: the frozen expert's forward pass, the
cross-entropy and the backward pass to the pixels. For distillation: the student's forward and backward pass and the two
teachers' forward passes. It is made in every form that we know (the modules as they are, channels last, batch norm
folded, on a GPU each as a CUDA graph too), and the fastest one counts. Our step does all the rest as well: priors,
augmentation, optimizer, mini-batch, targets. A ratio of 1 would mean that the rest is free.

## What the engine does

- **Lowered networks.** A frozen network runs as a traced copy in which batch norm is part of the convolution before it,
  with channels last in memory. A network that cannot be traced, or whose copy gives other logits, runs as it is. See
  {py:func}`exml.engine.lowered`.
- **Statistics within the backward pass.** The batch-norm prior needs mean and deviation of what enters each layer. They
  are computed in one pass at their place in the forward pass, and their gradient is added where the backward pass comes
  by, without hooks. The copy keeps no more for the backward pass than the gradient of the pixels needs.
- **One warp an image.** Shift, rotation, mirror image and size of an image are one affine map, interpolated once; where
  nothing is interpolated, pixels are copied.
- **No waiting.** A step reads nothing back from the device, so that a GPU is never idle for want of the next operation.
- **Forms of a step.** {py:class}`exml.engine.Execution` says how steps are executed: `compile="never"` launches each
  operation by itself and is the default, `"capture"` makes the whole step one CUDA graph on a GPU, `"always"` compiles
  the networks as well, `"auto"` lets each form make some of the steps and goes on with the fastest. With
  `precision="bfloat16"` networks run under autocast; statistics, priors, losses, images and weights stay float32.
- **Memory that stays.** {py:func}`exml.engine.keep_freed_memory` lets the C library of Linux keep the memory of one
  step for the next. The command `exml` and the scripts behind this page call it; in a program of your own it is for you
  to decide."""


@attrs.frozen
class Section:
    """One kind of measurement.

    Args:
        title: a heading.
        about: what was compared.
        files: results by device; a name, and the command that makes it.
        body: tables and words for a result.
    """

    title: str
    about: str
    files: Mapping[str, tuple[str, str]]
    body: Callable[[Found], list[str]]


def page(results: Mapping[str, Found]) -> str:
    """The page, made of nothing but the measurements, by file name."""
    lines = INTRODUCTION.splitlines()
    for section in SECTIONS:
        lines += ["", f"## {section.title}", "", *textwrap.wrap(section.about, 118)]
        for device, (name, command) in section.files.items():
            lines += ["", f"### {section.title}: {DEVICES[device]}", ""]
            if name in results:
                lines += [_origin(results[name], command), "", *section.body(results[name])]
            else:
                lines += [f"Not measured {DEVICES[device]} yet. This measures it: `{command}`."]
    return "\n".join(lines) + "\n"


def read(folder: Path) -> dict[str, Found]:
    """All results of a folder."""
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def _origin(found: Found, command: str) -> str:
    """Where, with what and how a result was made; each script has its own words for it."""
    if "machine" in found:
        machine = dict(found["machine"])
        threads, said = machine.pop("threads"), machine.pop("commit")
        accelerator = machine.pop("accelerator")
        places = [machine.pop("cpu") + ("" if accelerator == "none" else f", {accelerator}")]
        versions = machine
    else:
        first, *others = found.get("environments") or [found.get("environment", found)]
        places = list(dict.fromkeys(place["hardware"] for place in (first, *others)))
        threads = first["threads"]
        versions = first.get("versions") or {"torch": first["torch"]}
        said = first.get("commit") or found.get("commit") or found.get("commits") or "not noted"
    commits = said if isinstance(said, str) else ", ".join(said)
    noted = ", ".join(f"{name} {version}" for name, version in versions.items())
    changed = " (+: with changes that were not committed)" if "+" in commits else ""
    whole = "" if found.get("complete", True) else " **Not complete.**"
    return (
        f"Made by `{command}` at commit {commits}{changed} on {'; '.join(places)}; {threads} thread(s); {noted}.{whole}"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table; columns whose heading ends with a bar are text, the others numbers to the right."""
    names = [name.removesuffix("|") for name in head]
    bars = ["---" if name.endswith("|") else "---:" for name in head]
    return [f"| {' | '.join(map(str, cells))} |" for cells in (names, bars, *rows)]


def _number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _range(spread: Sequence[float] | None) -> str:
    return f"{_number(spread[0])} – {_number(spread[1])}" if spread else "–"


def _sentence(words: str, entries: Sequence[str], none: str) -> str:
    return f"{words}: {'; '.join(entries)}." if entries else none


def _ratios(found: Found) -> list[str]:
    rows, reasons, other, slower = [], [], [], []
    for name, row in found["rows"].items():
        if row.get("ratio") is None:
            reasons.append(f"{name}: {row.get('reason', 'not measured')}.")
        elif "ours_mb" in row:
            folded = row.get("ratio_to_folded")
            beside = "" if folded is None else f"; {_number(folded)} times that of a bare step with batch norm folded"
            other.append(
                f"{name[0].upper()}{name[1:]}: {_number(row['ours_mb'])} MiB at most beside {_number(row['bare_mb'])} "
                f"MiB of a bare step with the modules as they are, {_number(row['ratio'])} times as much{beside}."
            )
        else:
            times = map(_number, (row["ours_ms"], row["bare_ms"], row["ratio"]))
            rows.append((name, *times, _range(row["spread"]), row["n"], row.get("bare_form", row.get("from", "–"))))
            slower += [f"{name} by {100 * (row['ratio'] - 1):.0f} %"] if row["ratio"] > 1 else []
    head = ("|", "ours, ms", "bare, ms", "ratio", "spread", "n", "bare form|")
    words = _sentence("Slower than what it is compared with", slower, "Nothing here is slower than its bare step.")
    return [*_table(head, rows), "", words, *(line for text in (*other, *reasons) for line in ("", text))]


def _ranks(found: Found) -> list[str]:
    rows = [
        (name, *map(_number, (row["alone_ms"], row["together_ms"], row["speed_up"])), _range(row["spread"]), row["n"])
        for name, row in found["rows"].items()
    ]
    size = found["environment"]["ranks"]
    head = ("|", "one rank, ms", f"{size} ranks, ms", "speed-up", "spread", "n")
    losses = [f"{name} ({_number(row['speed_up'])})" for name, row in found["rows"].items() if row["speed_up"] < 1.5]
    exchanged = [
        (f"{row['numbers']:,}", *map(_number, (row["ours_us"], row["library_us"])), row["n"])
        for row in found["exchanges"]
    ]
    words = "What it takes until every rank has so many float32 numbers of every other, medians of n:"
    return [
        *_table(head, rows),
        "",
        _sentence("Less than 1.5 times as fast", losses, "Every row is at least 1.5 times as fast."),
        "",
        words,
        "",
        *_table(("numbers", "ours, µs", "torch.distributed, µs", "n"), exchanged),
    ]


def _place(row: Found) -> str:
    mode = [] if row["mode"] == "eager" else [row["mode"]]
    return ", ".join([row["dtype"], row["memory_format"].replace("_", " "), *mode])


def _kernels(found: Found) -> list[str]:
    """One table a kernel, a column a version; rows in which another version is faster are marked and told."""
    lines: list[str] = []
    kernels = dict.fromkeys(row["kernel"] for row in found["rows"])
    for kernel in kernels:
        rows = [row for row in found["rows"] if row["kernel"] == kernel]
        names = list(dict.fromkeys(row["version"] for row in rows))
        groups: dict[tuple[str, str], dict[str, Found]] = {}
        for row in rows:
            groups.setdefault((row["case"], _place(row)), {})[row["version"]] = row
        cells, faster = [], []
        for (case, place), versions in groups.items():
            best = _fastest_other(versions)
            mark = "" if best is None else "▽" if best[1] else "▼"
            times = [_time(versions.get(name)) for name in names]
            cells.append((mark, case, place, *times))
            if best is not None:
                name, noise = best
                gain = versions["ours"]["median_ms"] / versions[name]["median_ms"]
                faster.append(
                    f"{_name(name)} {gain:.2f} times at {case} ({place}{', within the spread' if noise else ''})"
                )
        n = sorted({row["n"] for row in rows})
        head = ["|", "case|", "place|", *map(_name, names)]
        lines += [
            "",
            f"**{kernel[0].upper()}{kernel[1:]}**, ms: median ± half the interquartile range, n = {_list(n)}.",
        ]
        lines += ["", *_table(head, cells), ""]
        lines += [_sentence("Faster than ours", faster, "Nothing here is faster than ours.")]
    failed = found.get("failed", [])
    return lines[1:] + (["", f"Failed: {', '.join(failed)}."] if failed else [])


def _fastest_other(versions: Mapping[str, Found]) -> tuple[str, bool] | None:
    """The fastest other version if it is faster than ours, and whether the spreads overlap."""
    others = {name: row for name, row in versions.items() if name != "ours"}
    if not others or "ours" not in versions:
        return None
    ours, name = versions["ours"], min(others, key=lambda name: others[name]["median_ms"])
    gap = ours["median_ms"] - others[name]["median_ms"]
    return (name, gap <= (ours["iqr_ms"] + others[name]["iqr_ms"]) / 2) if gap > 0 else None


def _time(row: Found | None) -> str:
    return "–" if row is None else f"{_number(row['median_ms'])} ± {_number(row['iqr_ms'] / 2)}"


def _name(version: str) -> str:
    return version.replace("_", " ")


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _modes(found: Found) -> list[str]:
    """A row a form; the gain is that over eager float32 at the same size."""
    rows, slower, broken = [], [], []
    eager = {
        (row["loop"], row["model"], row["batch"]): row["median"]
        for row in found["rows"]
        if (row["form"], row["precision"]) == ("never", "float32") and "error" not in row
    }
    for row in found["rows"]:
        key = (row["loop"], row["model"], row["batch"])
        name = f"{' '.join(map(str, key))}, {row['form']}, {row['precision']}"
        if "error" in row:
            broken.append(f"{name}: {row['error']}")
            continue
        gain = eager[key] / row["median"] if key in eager else None
        if gain is not None and gain < 1:
            slower.append(f"{name}, {1 / gain:.2f} times the time")
        broken += [f"{name}: {said}" for said in row["fell_back"]]
        launched = row.get("launches") or {}
        rows.append(
            (
                " ".join(map(str, key)),
                row["form"],
                row["precision"],
                _number(row["median"]),
                _range(row["spread"]),
                row["n"],
                _number(gain),
                _number(row["peak_mib"]),
                _number(launched.get("graph_launches")),
                _number(launched.get("kernel_launches")),
            )
        )
    head = ("|", "compile|", "precision|", "ms a step", "spread", "n", "gain", "peak MiB", "graphs", "launches")
    lines = [*_table(head, rows), ""]
    lines += [_sentence("Slower than eager float32", slower, "No form here is slower than eager float32.")]
    return lines + (["", _sentence("Could not be had", broken, "")] if broken else [])


def _correctness(found: Found) -> list[str]:
    words = {True: "passed", False: "**failed**", None: "not checked"}
    rows = []
    for name, report in found["checks"].items():
        numbers = {key: value for key, value in report.items() if key != "passed" and value not in ([], {}, None)}
        rows.append(
            (name, words[report["passed"]], "; ".join(f"{key} {_plain(value)}" for key, value in numbers.items()))
        )
    failed = [name for name, report in found["checks"].items() if report["passed"] is False]
    return [*_table(("check|", "|", "found|"), rows), "", _sentence("Failed", failed, "Nothing failed.")]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value).replace("|", "\\|").replace("\n", " ")


def _one_pass(found: Found) -> list[str]:
    rows = [
        (
            f"{row['model']}, {row['batch']} images",
            row["mode"],
            _number(row["loop_ms"]),
            _number(row["one_pass_ms"]),
            _number(row["ratio"]),
            _range(row["spread"]),
            row["n"],
        )
        for row in found["rows"]
    ]
    head = ("|", "mode|", "loop, ms", "one pass, ms", "ratio", "spread", "n")
    wins = [
        f"{row['model']}, {row['batch']} images, {row['mode']}, {1 / row['ratio']:.2f} times as fast"
        for row in found["rows"]
        if row["spread"][1] < 1
    ]
    loses = "The one pass is nowhere faster by more than the spread, so the engine has no such option."
    return [*_table(head, rows), "", _sentence("The one pass is faster for", wins, loses)]


def _time_to_accuracy(found: Found) -> list[str]:
    rows, missed = [], []
    for scenario, comparisons in found["scenarios"].items():
        for row in comparisons:
            ratio, whole = row["ratio"], row["ratio_of_whole_times"]
            rows.append(
                (
                    scenario,
                    f"{100 * row['budget']:g} %",
                    row["n"],
                    *(_summary(row[f"{side}_{key}"]) for side in ("straightforward", "exml") for key in _SHOWN),
                    _summary(ratio),
                    _summary(whole),
                )
            )
            what = f"{scenario} at {100 * row['budget']:g} % of the paper's budget"
            for words, lost in _LOSSES.items():
                seeds = [str(run["seed"]) for run in row["runs"] if lost(run)]
                missed += [f"{what}, {words} (seed {_list(seeds)})"] if seeds else []
    head = (
        "|",
        "budget",
        "n",
        "its accuracy",
        "its seconds",
        "our accuracy",
        "our seconds",
        "time ratio",
        "whole times",
    )
    none = "In every run ours reaches the best accuracy of the straightforward version, is sooner where that ends, and "
    none += "takes less time as a whole."
    return [*_table(head, rows), "", _sentence("Where ours does not win", missed, none)]


_SHOWN = ("accuracy", "seconds")
_LOSSES: dict[str, Callable[[Found], bool]] = {
    "ours ends below it": lambda run: run["ratio"] is None,
    "ours is later there": lambda run: (run["ratio"] or 0) > 1,
    "ours takes longer as a whole": lambda run: run["ratio_of_whole_times"] > 1,
    "ours ends below the best on its way": lambda run: run["ratio"] is not None and run["ratio_to_best"] is None,
}


def _summary(summary: Found | None) -> str:
    if summary is None:
        return "not reached"
    middle, ends = summary["median"], [summary["least"], summary["greatest"]]
    return _number(middle) + (f" ({_range(ends)})" if ends[0] < ends[1] else "")


def _options(found: Found) -> list[str]:
    rows = []
    for name, row in found["rows"].items():
        cells = [_mean(row[key]) for key in ("accuracy", "generation_s", "distillation_s")]
        rows.append((name, row["what"], *cells, f"{row['accuracy_gain']:+.1f}", _number(row["time_ratio"])))
    head = ("|", "|", "accuracy", "generation, s", "distillation, s", "gain, points", "time ratio")
    others = {name: row for name, row in found["rows"].items() if name != "base"}
    gains = [name for name, row in others.items() if row["time_ratio"] < 1 and row["accuracy_gain"] >= 0]
    slower = [name for name, row in others.items() if row["time_ratio"] >= 1]
    worse = [name for name, row in others.items() if row["time_ratio"] < 1 and row["accuracy_gain"] < 0]
    return [
        f"{found['scenario']}, {found['split']} images, mean ± standard deviation over the seeds "
        f"{_list(found['seeds'])}.",
        "",
        *_table(head, rows),
        "",
        _sentence("Faster and not less accurate", gains, "No option is faster and not less accurate."),
        _sentence("Faster, but less accurate", worse, "None is faster but less accurate."),
        _sentence("Not faster", slower, "None is slower."),
    ]


def _mean(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.1f} ± {deviation:.1f}"


def _paper_scale(found: Found) -> list[str]:
    rows = [
        (number, *(f"{seconds.get(phase, 0.0):.1f}" for phase in ("generation", "distillation")))
        for number, seconds in found["experiences"].items()
    ]
    total = ("all", *(f"{found['seconds'][phase]:.1f}" for phase in ("generation", "distillation")))
    return [
        f"{100 * found['scale']:g} % of the paper's iterations and buffer, compile {found['compile']!r}, "
        f"{found['precision']}, n = {found['n']}; "
        f"accuracy {found['accuracy']} % on made-up images{', gone on with once or more' if found['resumed'] else ''}.",
        "",
        *_table(("experience|", "generation, s", "distillation, s"), [*rows, total]),
    ]


def _both(name: str, cpu: str, cuda: str) -> dict[str, tuple[str, str]]:
    return {"cpu": (f"{name}_cpu.json", cpu), "cuda": (f"{name}_cuda.json", cuda)}


def _gpu_stage(stage: str) -> str:
    return f"EXML_STAGES={stage} benchmarks/run_on_gpu.sh"


_RATIOS = "uv run python benchmarks/ratios.py"
SECTIONS = (
    Section(
        "Steps beside the bare step",
        "After each of our steps comes a bare one, so that what else the machine does meets both alike. The ratio "
        "is the median of those of n pairs, the spread their interquartile range.",
        {
            "cpu": ("ratios_cpu.json", _RATIOS + " --threads 1 --out benchmarks/results/ratios_cpu.json"),
            "threads": (
                "ratios_cpu_2_threads.json",
                _RATIOS + " --threads 2 --out benchmarks/results/ratios_cpu_2_threads.json",
            ),
            "cuda": ("ratios_cuda.json", _gpu_stage("ratios")),
        },
        _ratios,
    ),
    Section(
        "Several ranks",
        "The same images by one rank and by several, of one thread each, in turns: a step of inversion or distillation "
        "as above. The speed-up is the median over n rounds of the ratio of two median times, the spread its "
        "interquartile range. Small batches of a small network gain little: what does not depend on the "
        "number of images is done by every rank.",
        _both(
            "ranks",
            "uv run torchrun --nproc-per-node 2 benchmarks/ranks.py --out benchmarks/results/ranks_cpu.json",
            "uv run torchrun --nproc-per-node N benchmarks/ranks.py --device cuda "
            "--out benchmarks/results/ranks_cuda.json",
        ),
        _ranks,
    ),
    Section(
        "Forms of execution",
        "The same steps eager (`never`), captured as one CUDA graph (`capture`), "
        "and compiled and captured (`always`); in float32 and bfloat16. Medians over windows of ten steps, the "
        "spread is their interquartile range, the gain is over eager float32.",
        {"cuda": ("modes_cuda.json", _gpu_stage("modes"))},
        _modes,
    ),
    Section(
        "Is it right on a GPU",
        "The loops in float32 against float64 on the CPU, the forms of execution against each other, and what must "
        "hold of every step. Differences are relative to what a loop changed.",
        {"cuda": ("correctness_cuda.json", _gpu_stage("correctness"))},
        _correctness,
    ),
    Section(
        "Kernels",
        "Our version of each kernel beside those of kornia, torchvision, torchmetrics and plain PyTorch, forward and, "
        "for priors, backward. ▼ marks rows in which another version is faster, ▽ those in which it is faster by less "
        "than the spread. A version of one draw a batch changes all images of a mini-batch alike, which is less work.",
        _both(
            "kernels",
            "uv run pytest benchmarks/kernels --benchmark-only --benchmark-json FULL.json` and `uv run python "
            "benchmarks/reduce_kernels.py FULL.json benchmarks/results/kernels_cpu.json",
            _gpu_stage("kernels"),
        ),
        _kernels,
    ),
    Section(
        "Five experts in one pass",
        "The forward pass of five experts of one architecture: one after the other, or all at once with their weights "
        "stacked, by `torch.func.vmap`. The versions take turns; the ratio is that of one pass to the loop.",
        _both(
            "one_pass",
            "uv run python benchmarks/gpu/one_pass.py --device cpu --threads 1 "
            "--out benchmarks/results/one_pass_cpu.json",
            _gpu_stage("one_pass"),
        ),
        _one_pass,
    ),
    Section(
        "Time to accuracy",
        "A straightforward Algorithm 1 with a share of the paper's budget, and our default on the same experts. The "
        "time ratio is that of the seconds until ours reaches the accuracy with which the other ends, to all of the "
        "other's seconds. In parentheses the least and the greatest over n seeds.",
        {
            "cpu": ("time_to_accuracy.json", "uv run python benchmarks/time_to_accuracy.py"),
            "cuda": ("time_to_accuracy_cuda.json", "EXML_DATA=... " + _gpu_stage("time_to_accuracy")),
        },
        _time_to_accuracy,
    ),
    Section(
        "Other mathematics",
        "Each option changes one thing of the default strategy as it was before any of them, `base`. Seconds are those "
        "that the processor spent; the time ratio is the median over seeds. The default has taken up the bank of "
        "views, which asks the teachers once. Stopping at a probability stays as the paper's own criterion for "
        "the images that it shows, warm starts as a choice; the default has neither.",
        {"cpu": ("options_cpu.json", "uv run python benchmarks/options.py")},
        _options,
    ),
    Section(
        "A run at the paper's scale",
        "Model Inversion ED with the settings of appendices B.2 and B.2.1 for CIFAR-10: seconds of each phase.",
        {"cuda": ("paper_scale_cuda.json", _gpu_stage("paper_scale"))},
        _paper_scale,
    ),
)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(read(RESULTS)), encoding="utf-8")
    print(f"wrote {os.path.relpath(PAGE)}")


if __name__ == "__main__":
    main()
