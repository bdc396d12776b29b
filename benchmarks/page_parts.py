"""The measured parts of pages that are otherwise written by hand."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from pages import Found, Page, ends, made_by, missing, number, sentence, table, wrap

STREAMS = ("new instances", "new classes")


def _part(page: str, result: str, command: str, make: Callable[[Found, str], list[str]]) -> Page:
    def lines(found: Mapping[str, Found]) -> list[str]:
        if result not in found:
            return [missing(command)]
        where = conditions(found[result]) if result in ("strangers.json", "streams.json") else found[result]
        return make(found[result], made_by(command, where))

    return Page(page, (result,), lambda found: "\n".join(lines(found)) + "\n", part=True)


def long_stream(found: Found, conditions: str) -> list[str]:
    """Memory and time of a stream of a thousand experts."""
    rows: Mapping[str, Any] = found["rows"]
    places = list(next(iter(rows.values()))["peak_mib"])
    peaks = [(f"{name}: {row['what']}", *row["peak_mib"].values(), row["peak_ratio"]) for name, row in rows.items()]
    seconds = [
        (
            name,
            when,
            f"{part['median_s']} ({part['spread_s'][0]} – {part['spread_s'][1]})",
            part["n"],
            part["processor_s"],
        )
        for name, row in rows.items()
        for when, part in row["seconds"].items()
    ]
    head = ("buffer|", "|", "seconds per expert, median (quartiles)", "n", "processor seconds per expert")
    return [
        *wrap(f"{conditions} One run of {found['experts']:,} experts for each row."),
        "",
        *table(("buffer|", *(f"MiB after {int(place):,}" for place in places), "last / first"), peaks),
        "",
        *table(head, seconds),
        "",
        *wrap(
            f"{' '.join(_growth(name, row) for name, row in rows.items())} The machine was shared, which affects "
            "processor seconds less than seconds of the clock."
        ),
    ]


def _growth(name: str, row: Found) -> str:
    text = (
        f"With the {name} buffer, the peak after the last expert was {100 * (row['peak_ratio'] - 1):.1f} % above the "
        f"peak after the tenth. The late experts took {row['seconds_ratio']} times the seconds of the early ones, and "
        f"{row['processor_ratio']} times their processor seconds."
    )
    if "kills" in row:
        verdict = "the same bytes" if row["same_student"] else "**other bytes**"
        text += f" After {row['kills']} `kill -9` and as many resumptions, the student had {verdict}."
    return text


def expert_training(found: Found, conditions: str) -> list[str]:
    """Images per second."""

    def cell(part: Found) -> str:
        return f"{part['median']:,} ({part['spread'][0]:,} – {part['spread'][1]:,})"

    rows = [(row["what"], *(cell(row[way]) for way in ("ours", "usual", "speedup"))) for row in found["rows"].values()]
    count = next(iter(found["rows"].values()))["n"]
    return [
        *table(("|", "`ExpertTraining`", "`DataLoader` and SGD", "speedup"), rows),
        "",
        *wrap(
            f"Images per second of processor time: median of {count} epochs (least – greatest). Epochs of the two take "
            f"turns, and the speedup is that of neighbors. {conditions}"
        ),
    ]


def large_images(found: Found, conditions: str) -> list[str]:
    """A large network on large photographs."""
    stages: dict[str, dict[str, str]] = {}
    for stage in found["stages"]:
        cell = f"{stage['cpu_seconds']:.1f} s, {stage['peak_resident_mib'] / 1024:.1f} GiB"
        stages.setdefault(stage["stage"], {})[stage["stream"]] = cell
    stages = {name: row for name, row in stages.items() if set(row) & set(STREAMS)}
    reached: dict[str, dict[str, str]] = {}
    for stream in STREAMS:
        for name, value in found["accuracy"][stream].items():
            values = value if isinstance(value, list) else [value]
            reached.setdefault(name, {})[stream] = ", ".join(f"{100 * each:.0f}" for each in values)
    frames = found["n"]["frames"]
    text = (
        f"{conditions} n = {found['n']['runs']}: {frames['train']} frames to train the experts, {frames['test']} to "
        f"test. {found['cpu_seconds']:.0f} seconds of processor time in all, and at most "
        f"{found['peak_resident_mib'] / 1024:.1f} GiB of memory."
    )
    lines = ["", *wrap(text)]
    for what, rows in (("stage|", stages), ("accuracy, %|", reached)):
        cells = [(name, *(row.get(stream, "") for stream in STREAMS)) for name, row in rows.items()]
        lines += ["", *table((what, *STREAMS), cells)]
    return [*lines, ""]


def forecasts(found: Found, conditions: str) -> list[str]:
    """Forecast and measured seconds of runs."""

    def cell(part: Found) -> str:
        return f"{number(part['median'])} ({ends(part['spread'])})"

    rows: Mapping[str, Found] = found["rows"]
    cells = [(name, *(cell(row[key]) for key in ("forecast", "took", "ratio")), row["n"]) for name, row in rows.items()]
    ratios = {name: row["ratio"]["median"] for name, row in rows.items()}
    off = [f"{name} ({ratio:.2f})" for name, ratio in ratios.items() if abs(ratio - 1) > 0.15]
    misses = sentence("Off by more than 15 %", off, "No median is off by more than 15 %.")
    return [
        *table(("|", "forecast, s", "took, s", "forecast / took", "n"), cells),
        "",
        *wrap(f"Medians (least – greatest). {misses} {conditions}"),
    ]


def poisoned_experts(found: Found, conditions: str) -> list[str]:
    """What screening finds, and what a poisoned expert does to a student that learns from it."""
    rows: Mapping[str, Found] = found["screened"]
    counts = [
        (row["what"], f"{row['found']} of {row['poisoned']}", f"{row['false']} of {row['sound']}")
        for row in rows.values()
    ]
    accuracies: Mapping[str, Mapping[str, float | None]] = found["learned"]

    def cell(kind: str, place: str) -> str:
        value = accuracies.get(kind, {}).get(place, "")
        return "refused" if value is None else f"{value:.1f}" if isinstance(value, float) else "not measured"

    kinds = {"without": "none: the student without it", **{kind: row["what"] for kind, row in rows.items()}}
    reached = [(what, *(cell(kind, place) for place in ("0", "2", "4"))) for kind, what in kinds.items()]
    return [
        *table(("the poisoned expert|", "poisoned and suspect", "sound and suspect"), counts),
        "",
        *wrap(
            f"Seeds {', '.join(map(str, found['seeds']))}, three positions each. The bounds were chosen on seeds 0 to "
            "2. The next table has the test accuracy, in percent, of a student that learns from the poisoned expert "
            f"all the same (seed {found['seeds'][0]}, n = 1). With all experts sound it is {found['clean']:.1f}. An "
            'expert that `on_suspect="refuse"` refuses leaves the student of the first row. *Refused* is an expert '
            "that no policy accepts, because its logits have no gradient to the pixels."
        ),
        "",
        *table(("the poisoned expert|", "first", "third", "last"), reached),
        "",
        *wrap(conditions),
    ]


def agreement(found: Found, conditions: str) -> list[str]:
    """Whether agreement without data ranks students by their accuracy, and whether the warning is right."""
    names = {
        "among_all": "all labels",
        "inversions": "its labels",
        "relative": "beyond chance",
        "drawings": "drawings",
        "ensemble": "mean of the experts",
        "min_entropy": "most certain expert",
        "confidence": "confidence",
    }
    lines: list[str] = []
    for part in ("tested", "chosen"):
        cells = [
            (
                row["what"],
                row["n"],
                ends(row["accuracy"]),
                *(f"{row[name][0]:.2f} ({row[name][1]:.2f})" for name in names),
            )
            for row in found[part].values()
        ]
        what = "the test images" if part == "tested" else "validation images, with which the figure was chosen"
        lines += [*table(("experts|", "n", f"accuracy on {what}, %", *names.values()), cells), ""]
    tested = [row["warnings"] for name, row in found["tested"].items() if name != "pooled"]
    keys = "worse", "worse_warned", "others", "others_warned"
    worse, warned, others, wrong = (sum(row[key] for row in tested) for key in keys)
    choices = [row["choices"] for name, row in found["tested"].items() if name != "pooled"]
    pairs, *preferred = (sum(row[key] for row in choices) for key in ("pairs", "among_all", "inversions"))
    budgets = " and ".join(f"{100 * budget:g} %" for budget in found["budgets"])
    whole = " and ".join(f"`{name}`" for name in found["whole"])
    text = (
        f"Rank correlation of Spearman (Kendall) between a figure without data and the accuracy. Each stream has n "
        f"students, of {len(found['recipes'])} strategies at {budgets} of their work, and of {whole} with all of it. "
        f"In the first table, {warned} of the {worse} students that were more than {found['margin']:g} point below the "
        f"best expert or ensemble had the warning, and {wrong} of the {others} others. Of two students of different "
        f"strategies with the same work, whose accuracies differ by more than {found['margin']:g} point, *all labels* "
        f"prefers the better one in {preferred[0]} of {pairs} pairs, and *its labels* in {preferred[1]}. {conditions}"
    )
    return [*lines, *wrap(text)]


def strangers(found: Found, where: str) -> list[str]:
    """Students of other people's experts, next to the experts themselves."""
    by_stream: dict[str, list[Found]] = {}
    for row in found["rows"].values():
        by_stream.setdefault(row["stream"], []).append(row)
    cells: list[tuple[Any, ...]] = []
    for stream, rows in by_stream.items():
        students = sorted(row["student"] for row in rows)
        targets = [row["target"] for row in rows if row["target"] is not None]
        seconds = [row["processor_seconds"] for row in rows if row["processor_seconds"] is not None]
        cells.append(
            (
                stream,
                ", ".join(f"{value:.1f}" for value in rows[0]["alone"]),
                f"{statistics.fmean(row['ensemble'] for row in rows):.1f}",
                f"{statistics.fmean(targets):.1f}" if targets else "–",
                f"{statistics.median(students):.1f}",
                ends((students[0], students[-1])) if len(rows) > 1 else "–",
                len(rows),
                f"{statistics.fmean(seconds):.0f}" if seconds else "–",
            )
        )
    head = ("experts|", "each on its classes|", "best ensemble", "target", "student, median", "spread", "n", "s")
    text = (
        "Accuracy in percent on the complete test sets, and processor seconds per student; n orders of the experts and "
        "seeds. *Best ensemble* is the best of six ways to combine all experts without learning. *Target* is what the "
        f"student learns to predict, computed for the test images. {where}"
    )
    return [*table(head, cells), "", *wrap(text)]


def headline(found: Found, where: str) -> list[str]:
    """The one number of the first page: the student of the paper's main scenario, next to the best ensemble."""
    rows = [row for row in found["rows"].values() if row["stream"] == "mnist-nc"]
    if not rows:
        return [missing(_script("streams") + " mnist-nc")]
    student, ensemble = (statistics.fmean(row[name] for row in rows) for name in ("student", "ensemble"))
    text = (
        f"For five experts of two MNIST digits each, the student reaches **{student:.1f} %** on the test images of all "
        f"ten. The best of six ways to combine the experts, which needs all five for every image, reaches "
        f"{ensemble:.1f} %. Means of n = {len(rows)} seeds; [Results](results.md) has the spread and the losses."
    )
    return [*wrap(text), "", *wrap(where)]


def conditions(found: Found) -> Found:
    """The conditions of rows that were measured at different times."""
    rows = list(found["rows"].values())
    versions = {name: list(dict.fromkeys(row["versions"][name] for row in rows)) for name in rows[0]["versions"]}
    return {
        "hardware": sorted({row["hardware"] for row in rows}),
        "threads": sorted({row["threads"] for row in rows}),
        "versions": {name: " or ".join(each) for name, each in versions.items()},
        "commit": sorted({row["commit"] for row in rows}),
    }


def calibrations(found: Found, conditions: str) -> list[str]:
    """The accuracy of the target that each calibration gives."""
    streams: Mapping[str, Any] = found["streams"]
    head = ("steps|", *(f"{name} (n = {len(next(iter(cells.values()))['seeds'])})" for name, cells in streams.items()))
    rules = next(iter(streams.values()))
    rows = [(rule, *(f"{cells[rule]['mean']:.1f}" for cells in streams.values())) for rule in rules]
    text = (
        "Accuracy in percent of the mean of calibrated logits on validation images, with all experts at hand: no "
        "student can be expected to be better than its target. Means over n seeds. The typicality of *mnist-nc* uses "
        "the initial weights, the weights of other experts, or none; its experts have initial weights of their own "
        f"in *own starts*, and were trained by Adam in *Adam*. {conditions}"
    )
    return [*table(head, rows), "", *wrap(text)]


def own_parts(found: Mapping[str, Found]) -> str:
    """The parts of *Build your own* next to the built-in ones, on a CPU and on a GPU."""
    lines: list[str] = []
    for device, option in (("cpu", ""), ("cuda", " --device cuda")):
        result, command = found.get(f"own_parts_{device}.json"), f"{_script('own_parts')}{option}"
        if result is None:
            lines += [missing(command, f" on {device}"), ""]
            continue
        families: Mapping[str, Found] = result["families"]
        bars = f"Times of the {', the '.join(families)} on {device}, as multiples of the bare step"
        lines += [f"![{bars}](../_static/own-parts-{device}.png)", ""]
        for family, made in families.items():
            cells = [
                (f"`{row['part']}`", number(row["milliseconds"]), ends(row["quartiles"]), f"{row['ratio']:.2f}")
                for row in made["rows"]
            ]
            lines += [*table((f"{family}, {made['step']}|", "ms", "quartiles", "time / bare step"), cells), ""]
        count = max(made["rounds"] for made in families.values())
        lines += [*wrap(f"Medians of {count} rounds. {made_by(command, result)}"), ""]
    return "\n".join(lines)


def _script(name: str) -> str:
    return f"uv run python benchmarks/{name}.py"


TIME_AND_MEMORY = _part("time-and-memory.md", "forecast_cpu.json", _script("forecast"), forecasts)
OWN_PARTS = Page("build-your-own/benchmark.md", ("own_parts_cpu.json", "own_parts_cuda.json"), own_parts, part=True)
PAGES = (
    TIME_AND_MEMORY,
    OWN_PARTS,
    _part("index.md", "streams.json", _script("streams"), headline),
    _part("folder-of-models.md", "long_stream_cpu.json", _script("long_stream"), long_stream),
    _part("poisoned-experts.md", "poisoned_experts.json", _script("poisoned_experts"), poisoned_experts),
    _part("evaluation.md", "agreement.json", _script("agreement"), agreement),
    _part("merge-your-classifiers.md", "strangers.json", _script("strangers"), strangers),
    _part("typicality.md", "calibrations.json", _script("calibrations"), calibrations),
    _part("experts.md", "expert_training_cpu.json", _script("expert_training"), expert_training),
    _part("datasets.md", "large_images_cpu.json", _script("large_images"), large_images),
)
