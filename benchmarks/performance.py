"""The page about speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from pages import Found, Page, ends, made_by, mean, missing, number, sentence, table, wrap

DEVICES = {"cpu": "on a CPU", "threads": "on a CPU, two threads", "cuda": "on a GPU"}

INTRODUCTION = """\
# Performance

A run spends its time in two loops: the optimization of pixels (inversion) and the training of the student
(distillation). This page compares one step of each loop with the least work that the same mathematics needs, and
lists where another implementation is faster. `uv run python benchmarks/make_pages.py` writes it from the files in
`benchmarks/results/`. `benchmarks/run_on_gpu.sh` measures everything that needs a GPU.

## The bare step

The **bare step** is the least work that the mathematics needs. For inversion, that is the forward pass of the frozen
expert, the cross-entropy, and the backward pass to the pixels. For distillation, it is the forward and backward pass
of the student and the forward passes of both teachers. We run the bare step in every form that we know: the modules
as they are, channels last, with batch norm folded, and on a GPU each of these as a CUDA graph. The fastest form
counts. Our step also includes priors, augmentation, optimizer, mini-batch and targets. A ratio of 1 means that these
are free.

## What the engine does

- **Lowered networks.** A frozen network runs as a traced copy. Batch norm is folded into the convolution before it,
  and memory has channels last. A network that cannot be traced, or whose copy computes other logits, runs unchanged.
  See {py:func}`exml.engine.lowered`.
- **Statistics within the backward pass.** The batch-norm prior needs the mean and the deviation of the input of each
  layer. The copy computes them in one pass, inside the forward pass, and adds their gradient inside the backward
  pass. It needs no hooks and keeps only what the gradient of the pixels requires.
- **One warp per image.** Shift, rotation, flip and scale form one affine map, which is interpolated once. Where
  nothing is interpolated, pixels are copied.
- **No synchronization.** A step reads nothing back from the device, so a GPU does not wait for the next operation.
- **Execution modes.** {py:class}`exml.engine.Execution` selects how steps run. `compile="never"`, the default,
  launches each operation on its own. `"capture"` records the whole step as one CUDA graph on a GPU. `"always"` also
  compiles the networks. `"auto"` tries each mode for a few steps and continues with the fastest. With
  `precision="bfloat16"`, networks run under autocast; statistics, priors, losses, images and weights stay in float32.
- **Memory reuse.** {py:func}`exml.engine.keep_freed_memory` lets the C library of Linux keep the memory of one step
  for the next. The `exml` command and the benchmarks call it. Call it in your own program if you want the same."""


@attrs.frozen
class Section:
    """One kind of measurement.

    Args:
        title: a heading.
        about: what was compared.
        files: results by device; a name, and the command that makes it.
        body: tables and sentences for a result.
    """

    title: str
    about: str
    files: Mapping[str, tuple[str, str]]
    body: Callable[[Found], list[str]]


def page(results: Mapping[str, Found]) -> str:
    """The page, from the measurements by file name."""
    lines = INTRODUCTION.splitlines()
    for section in SECTIONS:
        lines += ["", f"## {section.title}", "", *wrap(section.about)]
        for device, (name, command) in section.files.items():
            lines += ["", f"### {section.title}: {DEVICES[device]}", ""]
            if name in results:
                lines += [made_by(command, results[name]), "", *section.body(results[name])]
            else:
                lines += [missing(command, f" {DEVICES[device]}")]
    return "\n".join(lines) + "\n"


def _steps(found: Found) -> list[str]:
    rows, memory, reasons, slower = [], [], [], []
    for name, row in found["rows"].items():
        if row.get("ratio") is None:
            reasons.append(f"{name}: {row.get('reason', 'not measured')}.")
        elif "ours_mb" in row:
            folded = row.get("ratio_to_folded")
            memory.append(
                f"{name[0].upper()}{name[1:]}: at most {number(row['ours_mb'])} MiB, {number(row['ratio'])} times the "
                f"{number(row['bare_mb'])} MiB of a bare step with the modules as they are"
                + (f", and {number(folded)} times the memory of one with batch norm folded." if folded else ".")
            )
        else:
            times = map(number, (row["ours_ms"], row["bare_ms"], row["ratio"]))
            rows.append((name, *times, ends(row["spread"]), row["n"], row.get("bare_form", row.get("from", "–"))))
            slower += [f"{name} by {100 * (row['ratio'] - 1):.0f} %"] if row["ratio"] > 1 else []
    head = ("|", "ours, ms", "bare, ms", "ratio", "spread", "n", "bare form|")
    verdict = sentence("Slower than the bare step", slower, "No step here is slower than its bare step.")
    return [*table(head, rows), "", verdict, *(line for text in (*memory, *reasons) for line in ("", text))]


def _ranks(found: Found) -> list[str]:
    size, rows = found["environment"]["ranks"], found["rows"]
    cells = [
        (name, *map(number, (row["alone_ms"], row["together_ms"], row["speed_up"])), ends(row["spread"]), row["n"])
        for name, row in rows.items()
    ]
    losses = [f"{name} ({number(row['speed_up'])})" for name, row in rows.items() if row["speed_up"] < 1.5]
    exchanges = [
        (f"{row['numbers']:,}", *map(number, (row["ours_us"], row["library_us"])), row["n"])
        for row in found["exchanges"]
    ]
    return [
        *table(("|", "one rank, ms", f"{size} ranks, ms", "speed-up", "spread", "n"), cells),
        "",
        sentence("Less than 1.5 times as fast", losses, "Every row is at least 1.5 times as fast."),
        "",
        "Time to exchange float32 numbers between all ranks, median of n:",
        "",
        *table(("numbers", "ours, µs", "torch.distributed, µs", "n"), exchanges),
    ]


def _kernels(found: Found) -> list[str]:
    """One table per kernel, with one column per version. Rows in which another version is faster are marked."""
    lines: list[str] = []
    for kernel in dict.fromkeys(row["kernel"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["kernel"] == kernel]
        names = list(dict.fromkeys(row["version"] for row in rows))
        groups: dict[tuple[str, str], dict[str, Found]] = {}
        for row in rows:
            form = (row["dtype"], row["memory_format"].replace("_", " "), *{row["mode"]} - {"eager"})
            groups.setdefault((row["case"], ", ".join(form)), {})[row["version"]] = row
        cells, faster = [], []
        for (case, form), versions in groups.items():
            mark, gain = _fastest_other(versions)
            cells.append((mark, case, form, *(_milliseconds(versions.get(name)) for name in names)))
            if mark:
                faster.append(f"{gain} at {case} ({form}{', within the spread' if mark == '▽' else ''})")
        counts = ", ".join(map(str, sorted({row["n"] for row in rows})))
        lines += ["", f"**{kernel[0].upper()}{kernel[1:]}**, ms: median ± half the interquartile range, n = {counts}."]
        lines += ["", *table(["|", "case|", "form|", *(name.replace("_", " ") for name in names)], cells)]
        lines += ["", sentence("Faster than ours", faster, "No version here is faster than ours.")]
    failed = found.get("failed", [])
    return lines[1:] + (["", f"Failed: {', '.join(failed)}."] if failed else [])


def _fastest_other(versions: Mapping[str, Found]) -> tuple[str, str]:
    """A mark and words if another version is faster than ours; the mark is hollow if the spreads overlap."""
    others = {name: row for name, row in versions.items() if name != "ours"}
    if not others or "ours" not in versions:
        return "", ""
    ours, name = versions["ours"], min(others, key=lambda name: others[name]["median_ms"])
    gap = ours["median_ms"] - others[name]["median_ms"]
    if gap <= 0:
        return "", ""
    words = f"{name.replace('_', ' ')} {ours['median_ms'] / others[name]['median_ms']:.2f} times"
    return "▽" if gap <= (ours["iqr_ms"] + others[name]["iqr_ms"]) / 2 else "▼", words


def _milliseconds(row: Found | None) -> str:
    return "–" if row is None else f"{number(row['median_ms'])} ± {number(row['iqr_ms'] / 2)}"


def _modes(found: Found) -> list[str]:
    """One row per mode; the gain is over eager float32 at the same size."""
    rows, slower, broken = [], [], []
    sizes = {id(row): " ".join(map(str, (row["loop"], row["model"], row["batch"]))) for row in found["rows"]}
    eager = {
        sizes[id(row)]: row["median"]
        for row in found["rows"]
        if (row["form"], row["precision"]) == ("never", "float32") and "error" not in row
    }
    for row in found["rows"]:
        size = sizes[id(row)]
        name = f"{size}, {row['form']}, {row['precision']}"
        if "error" in row:
            broken.append(f"{name}: {row['error']}")
            continue
        gain = eager[size] / row["median"] if size in eager else None
        slower += [f"{name}, {1 / gain:.2f} times the time"] if gain is not None and gain < 1 else []
        broken += [f"{name}: {reason}" for reason in row["fell_back"]]
        launches = row.get("launches") or {}
        counts = (gain, row["peak_mib"], launches.get("graph_launches"), launches.get("kernel_launches"))
        times = (number(row["median"]), ends(row["spread"]), row["n"])
        rows.append((size, row["form"], row["precision"], *times, *map(number, counts)))
    head = ("|", "compile|", "precision|", "ms per step", "spread", "n", "gain", "peak MiB", "graphs", "launches")
    lines = [
        *table(head, rows),
        "",
        sentence("Slower than eager float32", slower, "No mode is slower than eager float32."),
    ]
    return lines + (["", sentence("Not available", broken, "")] if broken else [])


def _correctness(found: Found) -> list[str]:
    words = {True: "passed", False: "**failed**", None: "not checked"}
    rows, failed = [], []
    for name, report in found["checks"].items():
        numbers = {key: value for key, value in report.items() if key != "passed" and value not in ([], {}, None)}
        rows.append(
            (name, words[report["passed"]], "; ".join(f"{key} {_plain(each)}" for key, each in numbers.items()))
        )
        failed += [name] if report["passed"] is False else []
    return [*table(("check|", "|", "found|"), rows), "", sentence("Failed", failed, "No check failed.")]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value).replace("|", "\\|").replace("\n", " ")


def _one_pass(found: Found) -> list[str]:
    rows, wins = [], []
    for row in found["rows"]:
        name = f"{row['model']}, {row['batch']} images"
        times = map(number, (row["loop_ms"], row["one_pass_ms"], row["ratio"]))
        rows.append((name, row["mode"], *times, ends(row["spread"]), row["n"]))
        wins += [f"{name}, {row['mode']}, {1 / row['ratio']:.2f} times as fast"] if row["spread"][1] < 1 else []
    head = ("|", "mode|", "loop, ms", "one pass, ms", "ratio", "spread", "n")
    none = "The one pass is never faster by more than the spread, so the engine does not offer it."
    return [*table(head, rows), "", sentence("The one pass is faster for", wins, none)]


SIDES = ("straightforward", "exml")
LOSSES: Mapping[str, Callable[[Found], bool]] = {
    "ours ends below it": lambda run: run["ratio"] is None,
    "ours is later there": lambda run: (run["ratio"] or 0) > 1,
    "ours takes longer as a whole": lambda run: run["ratio_of_whole_times"] > 1,
    "ours ends below the best on its way": lambda run: run["ratio"] is not None and run["ratio_to_best"] is None,
}


def _time_to_accuracy(found: Found) -> list[str]:
    rows, losses = [], []
    for scenario, row in ((scenario, row) for scenario, rows in found["scenarios"].items() for row in rows):
        measured = [row[f"{side}_{key}"] for side in SIDES for key in ("accuracy", "seconds")]
        cells = map(_summary, (*measured, row["ratio"], row["ratio_of_whole_times"]))
        rows.append((scenario, f"{100 * row['budget']:g} %", row["n"], *cells))
        for words, lost in LOSSES.items():
            seeds = ", ".join(str(run["seed"]) for run in row["runs"] if lost(run))
            what = f"{scenario} at {100 * row['budget']:g} % of the paper's budget, {words} (seed {seeds})"
            losses += [what] if seeds else []
    own = ("its accuracy", "its seconds", "our accuracy", "our seconds", "time ratio", "whole times")
    none = (
        "In every run, ours reaches the best accuracy of the straightforward version, reaches its final accuracy "
        "sooner, and takes less time as a whole."
    )
    return [*table(("|", "budget", "n", *own), rows), "", sentence("Where ours does not win", losses, none)]


def _summary(summary: Found | None) -> str:
    if summary is None:
        return "not reached"
    least, greatest = summary["least"], summary["greatest"]
    return number(summary["median"]) + (f" ({ends((least, greatest))})" if least < greatest else "")


def _options(found: Found) -> list[str]:
    rows = []
    kinds: dict[str, list[str]] = {"gain": [], "loss": [], "slow": []}
    for name, row in found["rows"].items():
        means = [mean(row[key]) for key in ("accuracy", "generation_s", "distillation_s")]
        rows.append((name, row["what"], *means, f"{row['accuracy_gain']:+.1f}", number(row["time_ratio"])))
        if name != "base":
            kind = "slow" if row["time_ratio"] >= 1 else "gain" if row["accuracy_gain"] >= 0 else "loss"
            kinds[kind].append(name)
    seeds = ", ".join(map(str, found["seeds"]))
    return [
        f"{found['scenario']}, {found['split']} images, mean ± standard deviation over the seeds {seeds}.",
        "",
        *table(("|", "|", "accuracy", "generation, s", "distillation, s", "gain, points", "time ratio"), rows),
        "",
        sentence("Faster and not less accurate", kinds["gain"], "No option is faster and not less accurate."),
        sentence("Faster, but less accurate", kinds["loss"], "None is faster but less accurate."),
        sentence("Not faster", kinds["slow"], "None is slower."),
    ]


def _paper_scale(found: Found) -> list[str]:
    phases = ("generation", "distillation")
    parts = {**found["experiences"], "all": found["seconds"]}
    rows = [(name, *(f"{seconds.get(phase, 0.0):.1f}" for phase in phases)) for name, seconds in parts.items()]
    return [
        f"{100 * found['scale']:g} % of the paper's iterations and buffer, compile {found['compile']!r}, "
        f"{found['precision']}, n = {found['n']}; accuracy {found['accuracy']} % on made-up images"
        f"{', resumed at least once' if found['resumed'] else ''}.",
        "",
        *table(("experience|", *(f"{phase}, s" for phase in phases)), rows),
    ]


def _both(name: str, cpu: str, cuda: str) -> dict[str, tuple[str, str]]:
    return {"cpu": (f"{name}_cpu.json", cpu), "cuda": (f"{name}_cuda.json", cuda)}


def _gpu_stage(stage: str) -> str:
    return f"EXML_STAGES={stage} benchmarks/run_on_gpu.sh"


RATIOS = "uv run python benchmarks/ratios.py --threads {0} --out benchmarks/results/{1}"
SECTIONS = (
    Section(
        "Steps compared with the bare step",
        "Our steps and bare steps take turns, so that other work on the machine affects both alike. The ratio is the "
        "median of the ratios of n pairs, the spread their interquartile range.",
        {
            "cpu": ("ratios_cpu.json", RATIOS.format(1, "ratios_cpu.json")),
            "threads": ("ratios_cpu_2_threads.json", RATIOS.format(2, "ratios_cpu_2_threads.json")),
            "cuda": ("ratios_cuda.json", _gpu_stage("ratios")),
        },
        _steps,
    ),
    Section(
        "Several ranks",
        "One rank and several ranks process the same images, with one thread each and in turns: a step of inversion or "
        "distillation as above. The speed-up is the median over n rounds of the ratio of two median times, the spread "
        "its interquartile range. Small batches of a small network gain little, since every rank repeats the work that "
        "does not depend on the number of images.",
        _both(
            "ranks",
            "uv run torchrun --nproc-per-node 2 benchmarks/ranks.py --out benchmarks/results/ranks_cpu.json",
            "uv run torchrun --nproc-per-node N benchmarks/ranks.py --device cuda "
            "--out benchmarks/results/ranks_cuda.json",
        ),
        _ranks,
    ),
    Section(
        "Execution modes",
        "The same steps eager (`never`), captured as one CUDA graph (`capture`), and compiled and captured (`always`), "
        "in float32 and bfloat16. Times are medians over windows of ten steps, the spread is their interquartile "
        "range, and the gain is over eager float32.",
        {"cuda": ("modes_cuda.json", _gpu_stage("modes"))},
        _modes,
    ),
    Section(
        "Correctness on a GPU",
        "The loops in float32 compared with float64 on the CPU, the execution modes compared with each other, and "
        "properties of every step. Differences are relative to the change that a loop makes.",
        {"cuda": ("correctness_cuda.json", _gpu_stage("correctness"))},
        _correctness,
    ),
    Section(
        "Kernels",
        "Our version of each kernel compared with those of kornia, torchvision, torchmetrics and plain PyTorch: the "
        "forward pass and, for priors, the backward pass. ▼ marks rows in which another version is faster, ▽ rows in "
        "which it is faster by less than the spread. A version with one draw per batch changes all images of a "
        "mini-batch alike, which is less work.",
        _both(
            "kernels",
            "uv run python benchmarks/gpu/kernels.py --device cpu --threads 1 "
            "--out benchmarks/results/kernels_cpu.json",
            _gpu_stage("kernels"),
        ),
        _kernels,
    ),
    Section(
        "Five experts in one pass",
        "The forward pass of five experts of one architecture: one after the other, or all at once with stacked "
        "weights (`torch.func.vmap`). The versions take turns. The ratio is the time of one pass to that "
        "of the loop.",
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
        "time ratio divides the seconds until ours reaches the final accuracy of the straightforward version by all "
        "seconds of the straightforward version. Parentheses show the least and the greatest over n seeds.",
        {
            "cpu": ("time_to_accuracy.json", "uv run python benchmarks/time_to_accuracy.py"),
            "cuda": ("time_to_accuracy_cuda.json", "EXML_DATA=... " + _gpu_stage("time_to_accuracy")),
        },
        _time_to_accuracy,
    ),
    Section(
        "Alternative settings",
        "Each option changes one setting of `base`, the default strategy before any of these options. Seconds are "
        "processor time; the time ratio is the median over seeds. The default has since adopted the bank of views, "
        "which runs the teachers once. Stopping at a probability, the paper's own criterion for the images that it "
        "shows, and warm starts remain available; the default uses neither.",
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

PAGE = Page("performance.md", [name for section in SECTIONS for name, _ in section.files.values()], page)
