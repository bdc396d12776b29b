"""The page about costs: the model, how it compares with measurements, and what it says of streams nobody has run.

    uv run python benchmarks/costs_page.py

Reads what ``benchmarks/costs.py`` has written to ``benchmarks/results/`` and writes ``docs/costs.md``. The measured
numbers come from there; the foreseen ones from :class:`exml.costs.CostModel`, from sizes that the same file holds and
from assumptions that the page states.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from exml.buffers import Cumulative, Reservoir, Unbounded
from exml.core.errors import BufferSizeError
from exml.costs import Cost, CostModel, GenerationSizes, Line, Link, Sizes, at_speed
from exml.learning.strategy import Strategy

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "costs_cpu.json"
PAGE = ROOT / "docs" / "costs.md"
Found: TypeAlias = Mapping[str, Any]

PEAK, SHARE, STEP = 60e12, 0.1, 2e-3
LINK = Link(latency=5e-5, bytes_per_second=100e9)
EXPERTS = 10_000

INTRODUCTION = r"""# What it costs

Before a strategy is run, {py:func}`exml.costs.estimate` says what it will take, from a second or two of measurement on
this device with models like those of the stream:

```python
>>> import exml
>>> from exml.costs import estimate
>>> scenario = exml.scenarios.load("digits-nc")
>>> expert = exml.Expert(scenario.make_module(0), (0, 1), scenario.image_shape, outputs=range(10))
>>> strategy = exml.recipes.default(scenario.profile()).build()
>>> cost = estimate(strategy, expert, scenario.make_student(0), experts=5)
>>> print(cost)
5 experts on 1 rank: ... (generation ..., distillation ..., other ...); at most ... of memory (buffer 546.9 KiB),
checkpoint ...
>>> cost.seconds > cost.of(1) > cost.of(5)  # the first expert needs the most images
True

```

This page has the model behind it, holds it against measurements, and asks it about streams that nobody has run. It is
written by `uv run python benchmarks/costs_page.py`.

## Time

Experience $i$ makes $n_i$ new images (what the buffer policy says; $\lfloor N/i \rfloor$ for Eq. 5) and then holds
$M_i$. With $K$ iterations over mini-batches of $B$ images in generation, $T$ steps of $b$ samples in distillation, $V$
views of every image, $R$ ranks, and lines $\lambda(x) = \lambda^0 + \lambda^1 x$ it takes

$$
G_i &= \mathrm{call}(n_i) + K \sum_{batches} ( \mathrm{step}_G(\lceil B/R \rceil) + \mathrm{gather}(8C) ) \\
D_i &= \mathrm{setup} + V \lceil M_i/R \rceil \, \mathrm{view}
       + T ( \mathrm{step}_D(\lceil b/R \rceil) + \mathrm{add}(P) + \mathrm{norms} ) \\
O_i &= \mathrm{experience} + \mathrm{update} \, (M_{i-1} + n_i)
$$

seconds for generation, distillation and all else. A generator without iterations has no second term; a mixture is the
sum of its parts. $C$ are the batch-norm channels of the expert (if a prior reads them), $P$ the bytes of the student's
gradient, *norms* two small collectives for each of its batch-norm layers. A collective of $x$ bytes over $R$ ranks
takes $\alpha \lceil \log_2 R \rceil$ and the time in which a link of $\beta$ bytes a second carries
$2 \frac{R-1}{R} x$ bytes for a sum over ranks, or $(R - 1) x$ for a gathering. On one rank there are none.

The rates (call, step, view and so on) are what {py:func}`exml.costs.measure` measures, {py:class}`exml.costs.Link` has
$\alpha$ and $\beta$. They hold for one resolution and one pair of models; between those they go as the floating-point
operations that {py:func}`exml.costs.count` counts: {py:func}`exml.costs.at_speed` makes rates of a speed, your own or
one that you read somewhere.

What follows from it:

- **Experts.** Distillation is linear in their number $E$: each experience makes $T$ steps, whatever came before.
  Generation is not: with Eq. 5 the images are $\sum_i \lfloor N/i \rfloor \approx N \ln E$.
- **Images, iterations, steps, views** are linear, each in its own term. A bank of views pays while $V M_i < T b$.
- **Resolution and models** go with the operations of their networks: convolutions with the pixels.
- **Ranks** divide mini-batches into whole images. The fixed part of a step, its exchanges and generators that do not
  iterate are not divided, and a mini-batch of distillation needs a sample for each rank.
- Not foreseen: images that leave an inversion early (`stop_at`), reading experts, writing checkpoints, the first use of
  a library, compilation.

## Memory

Bytes on one rank are highest at one of three points of an experience. Beside the student, the expert and the one that
is read ahead there are

- in generation: $M_{i-1}$ samples; a mini-batch of the inversion with its activations, and the images that wait;
- when the buffer is updated: $M_{i-1}$, $n_i$ and $M_i$ samples, and those that are kept;
- in distillation: the expert once more (lowered), the previous student three times (its state, its module, lowered),
  gradient and optimizer, $M_i + n_i$ samples, the bank of $V M_i$ views with their targets, and the activations of a
  mini-batch.

Activations are counted by running the loop on four images and on eight. Every rank holds the whole buffer and the whole
bank; only activations are divided."""


def page(found: Found) -> str:
    """The page, of the introduction and one result."""
    parts = [INTRODUCTION, *_measured(found), *_planned(found["plan"])]
    return "\n".join(parts) + "\n"


def _measured(found: Found) -> list[str]:
    times, ranks, memory = (found[stage]["rows"] for stage in ("times", "ranks", "memory"))
    link = ranks["slim-resnet18, ranks 2"]["link"]
    return [
        "",
        "## Predicted beside measured",
        "",
        "Medians of n runs, spread from the least to the greatest. The ratio is predicted / measured, of the same run: "
        "below 1 the model promises too much. **Nothing has been measured on a GPU yet.**",
        "",
        "### Seconds",
        "",
        _origin(found["times"], "times"),
        "",
        _words(
            "Each row is a run of the learner with model inversion, {what}; the others change one thing. Seconds are "
            "those of the processor, since the machine is shared; rates were measured right after each run.",
            times["base"]["case"],
        ),
        "",
        *_seconds(times),
        "",
        _misses(times, ("seconds", "generation", "distillation")),
        "",
        "The same runs beside the base: how many times its seconds. *By operations* is what the floating-point "
        "operations alone say, as for a device that nobody has measured: too much where a step has little to do, since "
        "its fixed part does not grow.",
        "",
        *_growth(times),
        "",
        "### Ranks",
        "",
        _origin(found["ranks"], "ranks"),
        "",
        f"Two ranks on this machine: {1e3 * link['latency']:.2g} ms for a small exchange, "
        f"{link['bytes_per_second'] / 1e9:.2g} GB a second for large ones, measured before each run. Seconds of the "
        "clock, with whatever else the machine did, which meets two ranks harder than one: each waits for the other, "
        "and the rates were measured on one rank while the other slept.",
        "",
        *_seconds(ranks),
        "",
        _misses(ranks, ("seconds", "generation", "distillation")),
        "",
        "### Bytes",
        "",
        _origin(found["memory"], "memory"),
        "",
        _words(
            "The peak of all tensors that a run makes, counted one by one, and the rise of the resident memory of its "
            "process ({what}). The second has also what libraries work in and what the allocator of a CPU keeps of the "
            "memory that was freed: allow for two and a half times what is predicted.",
            memory["base"]["case"],
        ),
        "",
        *_bytes(memory),
        "",
        _misses(memory, ("tensors", "resident")),
    ]


def _origin(stage: Found, name: str) -> str:
    place = stage["environment"]
    noted = ", ".join(f"{package} {version}" for package, version in place["versions"].items())
    return (
        f"Made by `uv run python benchmarks/costs.py --stages {name}` at commit {place['commit']} on "
        f"{place['hardware']}; {place['threads']} thread(s); {noted}."
    )


def _words(text: str, case: Found) -> str:
    what = (
        f"{case['experts']} experts, a buffer of {case['buffer']:,} images of 3x{case['pixels']}x{case['pixels']}, "
        f"a small convolutional network, {case['iterations']} iterations, "
        f"{case['steps']} steps of {case['batch']} samples"
    )
    return text.format(what=what)


def _seconds(rows: Found) -> list[str]:
    cells = [
        (
            name,
            _number(row["seconds"]["measured"]),
            _range(row["seconds"]["spread"]),
            _number(row["seconds"]["predicted"]),
            *(f"{row[key]['ratio']:.2f}" for key in ("seconds", "generation", "distillation")),
            row["n"],
        )
        for name, row in rows.items()
    ]
    head = ("|", "measured, s", "spread", "predicted, s", "ratio", "of generation", "of distillation", "n")
    return _table(head, cells)


def _growth(rows: Found) -> list[str]:
    base = rows["base"]
    cells = [
        (
            name,
            *(f"{row['seconds'][side] / base['seconds'][side]:.2f}" for side in ("measured", "predicted")),
            f"{row['operations'] / base['operations']:.2f}",
        )
        for name, row in rows.items()
        if name != "base"
    ]
    return _table(("|", "measured", "predicted", "by operations"), cells)


def _bytes(rows: Found) -> list[str]:
    cells = [
        (
            name,
            *(f"{row[key][side] / 2**20:.0f}" for key, side in _SHOWN),
            *(f"{row[key]['ratio']:.2f}" for key in ("tensors", "resident")),
            row["n"],
        )
        for name, row in rows.items()
    ]
    head = ("|", "predicted, MiB", "tensors, MiB", "resident, MiB", "ratio to tensors", "ratio to resident", "n")
    return _table(head, cells)


_SHOWN = (("tensors", "predicted"), ("tensors", "measured"), ("resident", "measured"))
_ALLOWED = 0.15


def _misses(rows: Found, keys: Sequence[str]) -> str:
    """Where the model errs, all of it."""
    missed = [
        f"{name} ({key} {row[key]['ratio']:.2f})"
        for name, row in rows.items()
        for key in keys
        if abs(row[key]["ratio"] - 1) > _ALLOWED
    ]
    if not missed:
        return f"Nowhere does it err by more than {100 * _ALLOWED:.0f} %."
    return f"It errs by more than {100 * _ALLOWED:.0f} % at: {'; '.join(missed)}."


def _planned(plan: Found) -> list[str]:
    strategy, sizes = Strategy.from_dict(plan["strategy"]), _sizes(plan["sizes"])
    rates = at_speed(strategy, sizes, flops_per_second=PEAK * SHARE, step=STEP, link=LINK)
    training = strategy.training

    def cost(experts: int = EXPERTS, ranks: int = 1, **changes: Any) -> Cost:
        return CostModel(attrs.evolve(strategy, **changes), rates, sizes, ranks).cost(experts)

    one = cost()
    generator = plan["strategy"]["generator"]
    return [
        "",
        "## Ten thousand experts",
        "",
        f"A plan, **not measured on a GPU yet**: all of it rests on assumptions. Experts and student are "
        f"{plan['models']}, images {plan['images']}. The strategy is model inversion with {generator['iterations']} "
        f"iterations and batch-norm statistics, a cumulative buffer of {strategy.buffer.size:,} and "
        f"{training.iterations} steps of {training.batch_size} samples for each expert. Operations are counted: "
        f"{_giga(sizes.generation[0].step_flops)} an image and iteration, "
        f"{_giga(sizes.training_flops + sizes.view_flops(2))} a sample of distillation. Assumed is a card with "
        f"{PEAK / 1e12:.0f} TFLOP/s in float32 that does {100 * SHARE:.0f} % of them in networks as small as these, "
        f"{1e3 * STEP:.0f} ms that no step falls below, and between cards {1e6 * LINK.latency:.0f} µs and "
        f"{LINK.bytes_per_second / 1e9:.0f} GB/s. With your own numbers:",
        "",
        "```python",
        ">>> from exml.costs import CostModel, Link, at_speed, count",
        ">>> sizes = count(strategy, expert, scenario.make_student(0))",
        ">>> link = Link(latency=5e-5, bytes_per_second=100e9)",
        ">>> rates = at_speed(strategy, sizes, flops_per_second=6e12, step=2e-3, link=link)",
        ">>> two = CostModel(strategy, rates, sizes, ranks=2).cost(1_000)",
        ">>> two.experts, two.ranks, two.distillation > two.generation",
        "(1000, 2, True)",
        "",
        "```",
        "",
        "### On one card",
        "",
        *_table(
            ("experts", "images made", "generation, h", "distillation, h", "in all, days", "memory, MiB"),
            [_planned_row(cost(experts)) for experts in (10, 100, 1_000, EXPERTS)],
        ),
        "",
        f"Distillation is {one.distillation / one.seconds:.0%} of it, the same for every expert: fewer steps for each "
        "are worth more than anything that is done to generation. Each later expert makes fewer images, until its "
        f"{generator['iterations']} iterations cost their fixed part and no more; memory does not grow.",
        "",
        "### The buffer",
        "",
        "Eq. 5 gives the last expert $N/E$ images, so that $N \\geq E$:",
        "",
        *_table(
            ("buffer|", "images of the last", "images made", "generation, h", "in the buffer, MiB", "memory, MiB"),
            [_buffer_row(buffer, cost) for buffer in _BUFFERS],
        ),
        "",
        "A cumulative buffer of the paper's size cannot serve this stream. A reservoir makes as many images for the "
        "last expert as for the first, and generation is then linear in experts as well.",
        "",
        "### On several",
        "",
        *_table(
            ("ranks", "in all, days", "times as fast", "of each card", "days with large mini-batches", "times as fast"),
            _rank_rows(cost, training, one),
        ),
        "",
        *_large(training),
    ]


_BUFFERS = (Cumulative(5_000), Cumulative(EXPERTS), Cumulative(20_000), Reservoir(20_000, 100), Unbounded(100))
_TIMES = 8


def _rank_rows(cost: Any, training: Any, one: Cost) -> list[tuple[str, ...]]:
    larger = attrs.evolve(training, batch_size=_TIMES * training.batch_size, iterations=training.iterations // _TIMES)
    alone, rows = cost(training=larger), []
    for ranks in (1, 2, 4, 8, 16, 32, 64):
        ours, large = cost(ranks=ranks), cost(ranks=ranks, training=larger)
        gain = one.seconds / ours.seconds
        rows.append(
            (
                f"{ranks}",
                _number(ours.seconds / 86_400),
                f"{gain:.1f}",
                f"{gain / ranks:.0%}",
                _number(large.seconds / 86_400),
                f"{alone.seconds / large.seconds:.1f}",
            )
        )
    return rows


def _large(training: Any) -> list[str]:
    return [
        f"A mini-batch of {training.batch_size} gives each of 64 cards {training.batch_size // 64} samples, whose "
        "arithmetic takes less than the fixed part of a step and the exchanges of its batch-norm layers: beyond a few "
        "cards there is little to win, and with fewer samples than cards the learner refuses. What helps is more work "
        f"in a step: the last two columns have {training.iterations // _TIMES} steps of {_TIMES * training.batch_size} "
        "samples, as many samples as before; what that does to the accuracy is another question. A student without "
        "batch norm exchanges once a step instead of forty times."
    ]


def _planned_row(cost: Cost) -> tuple[str, ...]:
    return (
        f"{cost.experts:,}",
        f"{cost.images:,}",
        _number(cost.generation / 3_600),
        _number(cost.distillation / 3_600),
        _number(cost.seconds / 86_400),
        f"{cost.peak_bytes / 2**20:,.0f}",
    )


def _buffer_row(buffer: Any, cost: Any) -> tuple[str, ...]:
    name = f"`{buffer}`"
    try:
        found: Cost = cost(buffer=buffer)
    except BufferSizeError:
        return (name, "refused", "–", "–", "–", "–")
    return (
        name,
        f"{found.experiences[-1].images:,}",
        f"{found.images:,}",
        _number(found.generation / 3_600),
        f"{found.buffer_bytes / 2**20:,.0f}",
        f"{found.peak_bytes / 2**20:,.0f}",
    )


def _sizes(plain: Found) -> Sizes:
    parts = [GenerationSizes(**{**part, "memory": Line(**part["memory"])}) for part in plain["generation"]]
    return Sizes(**{**plain, "generation": parts})


def _giga(flops: float) -> str:
    return f"{flops / 1e9:.2f} GFLOP"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table; columns whose heading ends with a bar are text, the others numbers to the right."""
    names = [name.removesuffix("|") for name in head]
    bars = ["---" if name.endswith("|") else "---:" for name in head]
    return [f"| {' | '.join(map(str, cells))} |" for cells in (names, bars, *rows)]


def _number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _range(spread: Sequence[float]) -> str:
    return f"{_number(spread[0])} – {_number(spread[1])}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {os.path.relpath(PAGE)}")


if __name__ == "__main__":
    main()
