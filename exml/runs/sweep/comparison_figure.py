"""The accuracies of a sweep as a picture."""

from __future__ import annotations

import statistics
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from exml.runs.canvas import COLOURS, MARKERS, fitted, new_figure
from exml.runs.sweep.groups import Group, groups_of
from exml.runs.sweep.results import SweepResult

DASHES: tuple[Any, ...] = (":", "--", "-.", (0, (6, 1, 1, 1, 1, 1)), "-")
ACROSS = 3
"""Panels beside each other."""


def comparison_figure(result: SweepResult) -> Figure:
    """Stream accuracy of each strategy and combination of its fields: every seed, their mean and its spread.

    There is one panel for each scenario, with the means of its baselines as lines.

    Args:
        result: of a sweep, also of one that is not over.
    """
    groups = groups_of(result)
    scenarios = list(dict.fromkeys(group.scenario for group in groups))
    labels = list(dict.fromkeys(group.label for group in groups if group.kind == "strategy"))
    baselines = list(dict.fromkeys(group.strategy for group in groups if group.kind == "baseline"))
    strategies = list(dict.fromkeys(group.strategy for group in groups if group.kind == "strategy"))
    across = max(1, min(ACROSS, len(scenarios)))
    down = max(1, -(-len(scenarios) // across))
    longest = max((len(label) for label in labels), default=0)
    figure = new_figure(0.4 + 0.066 * longest + 4.4 * across, max(2.6, 1.5 + down * (0.9 + 0.25 * len(labels))))
    axes = figure.subplots(down, across, squeeze=False, sharey=True).flatten()
    for axis in axes[len(scenarios) :]:
        axis.set_visible(False)
    for axis, scenario in zip(axes, scenarios, strict=False):
        here = [group for group in groups if group.scenario == scenario]
        for group in here:
            if group.kind == "baseline":
                dash = DASHES[baselines.index(group.strategy) % len(DASHES)]
                axis.axvline(100 * statistics.fmean(group.accuracies), color="#777777", linestyle=dash, linewidth=1.1)
            else:
                _draw(axis, group, labels.index(group.label), strategies.index(group.strategy))
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.set_ylim(len(labels) - 0.4, -0.6)  # the first on top
        axis.set_title(fitted(scenario, 4.0, 10), fontsize=10, loc="left")
        axis.set_xlabel("stream accuracy (Eq. 2), %", fontsize=9)
        axis.grid(axis="y", color="#EEEEEE", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    n = max((len(group.accuracies) for group in groups), default=0)
    figure.suptitle(f"Mean ± standard deviation over {n} seed(s), a dot for each seed", fontsize=10)
    handles = [
        Line2D([], [], color="#777777", linestyle=DASHES[place % len(DASHES)], label=name)
        for place, name in enumerate(baselines)
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", fontsize=8, ncols=3, frameon=False)
    return figure


def _draw(axis: Any, group: Group, place: int, number: int) -> None:
    """One row: dots, mean and spread, and the same in figures on the right."""
    colour = COLOURS[number % len(COLOURS)]
    percent = [100 * accuracy for accuracy in group.accuracies]
    text = group.text
    if percent:
        axis.scatter(percent, [place] * len(percent), s=12, color=colour, alpha=0.35, linewidths=0)
        spread = statistics.stdev(percent) if len(percent) > 1 else 0.0
        look = {"fmt": MARKERS[number % len(MARKERS)], "color": colour, "ms": 5, "capsize": 2.5, "lw": 1.2}
        axis.errorbar(statistics.fmean(percent), place, xerr=spread, **look)
    style = {"va": "center", "fontsize": 8, "color": "#333333", "transform": axis.get_yaxis_transform()}
    axis.text(1.01, place, text, **style)
