"""The accuracies of a sweep as a figure."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from exml.runs.figures import COLORS, MARKERS, fitted, new_figure
from exml.runs.sweep.results import Group, SweepResult

DASHES: tuple[Any, ...] = (":", "--", "-.", (0, (6, 1, 1, 1, 1, 1)), "-")
ACROSS = 3
"""Panels in a row."""


def comparison_figure(result: SweepResult) -> Figure:
    """Stream accuracy of each strategy and combination of fields: every seed, the mean and the standard deviation.

    Each scenario has a panel, with the means of its baselines as lines.
    """
    groups = result.groups
    scenarios = list(dict.fromkeys(group.scenario for group in groups))
    labels = list(dict.fromkeys(group.label for group in groups if group.rows[0].kind == "strategy"))
    strategies = list(dict.fromkeys(row.strategy for row in result.rows if row.kind == "strategy"))
    names = dict.fromkeys(row.strategy for row in result.rows if row.kind == "baseline")
    baselines = dict(zip(names, itertools.cycle(DASHES), strict=False))
    across = max(1, min(ACROSS, len(scenarios)))
    down = max(1, -(-len(scenarios) // across))
    longest = max((len(label) for label in labels), default=0)
    figure = new_figure(0.4 + 0.066 * longest + 4.4 * across, max(2.6, 1.5 + down * (0.9 + 0.25 * len(labels))))
    axes = figure.subplots(down, across, squeeze=False, sharey=True).flatten()
    for axis in axes[len(scenarios) :]:
        axis.set_visible(False)
    for axis, scenario in zip(axes, scenarios, strict=False):
        for group in (group for group in groups if group.scenario == scenario):
            if group.rows[0].kind == "baseline":
                look = {"color": "#777777", "linestyle": baselines[group.label], "linewidth": 1.1}
                axis.axvline(statistics.fmean(group.accuracies), **look)
            else:
                _draw(axis, group, labels.index(group.label), strategies.index(group.rows[0].strategy))
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.set_ylim(len(labels) - 0.4, -0.6)  # the first on top
        axis.set_title(fitted(scenario, 4.0, 10), fontsize=10, loc="left")
        axis.set_xlabel("stream accuracy (Eq. 2), %", fontsize=9)
        axis.grid(axis="y", color="#EEEEEE", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    n = max((len(group.accuracies) for group in groups), default=0)
    figure.suptitle(f"Mean ± standard deviation over {n} seed(s), one dot per seed", fontsize=10)
    handles = [Line2D([], [], color="#777777", linestyle=dash, label=name) for name, dash in baselines.items()]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", fontsize=8, ncols=3, frameon=False)
    return figure


def _draw(axis: Any, group: Group, place: int, number: int) -> None:
    """One row: dots, mean and standard deviation, and the numbers on the right."""
    color, values = COLORS[number % len(COLORS)], group.accuracies
    if values:
        axis.scatter(values, [place] * len(values), s=12, color=color, alpha=0.35, linewidths=0)
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        look = {"fmt": MARKERS[number % len(MARKERS)], "color": color, "ms": 5, "capsize": 2.5, "lw": 1.2}
        axis.errorbar(statistics.fmean(values), place, xerr=deviation, **look)
    style = {"va": "center", "fontsize": 8, "color": "#333333", "transform": axis.get_yaxis_transform()}
    axis.text(1.01, place, group.text, **style)
