"""The request for cells of the paper's tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
from cyclopts import Parameter, Token

from exml.core.errors import SettingError
from exml.core.validators import in_range, one_of, positive_int
from exml.runs import Resources
from reproduction.layout import OWN, Family

FIGURES = ("figure2", "figure3")


def _distinct(instance: Any, attribute: attrs.Attribute[Any], value: tuple[Any, ...]) -> None:
    if not value or len(set(value)) != len(value):
        raise SettingError(
            expected=f"one or more different {attribute.name}", got=repr(value), remedy="list each of them once"
        )


def _listed(convert: Callable[[str], Any] = str) -> Parameter:
    """An option that takes values separated by commas."""

    def values(_: object, tokens: Sequence[Token]) -> tuple[Any, ...]:
        parts = [part.strip() for part in tokens[0].value.split(",")]
        return tuple(convert(part) for part in parts if part)

    return Parameter(converter=values)


def _seeds(_: object, tokens: Sequence[Token]) -> tuple[int, ...]:
    """``"3"`` are three seeds, ``"3,"`` is seed 3."""
    text = tokens[0].value
    return tuple(int(part) for part in text.split(",") if part.strip()) if "," in text else tuple(range(int(text)))


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Reproduction:
    """The cells of some tables and figures: every scenario with every strategy and every seed.

    Args:
        parts: names of tables, ``"figure2"``, ``"figure3"``.
        scenarios: Columns in the order in which they are started, separated by commas; by default all.
        strategies: Rows, separated by commas: baselines, model-inversion, data-impression, auxiliary, replay, noise,
            exml; by default all.
        recipes: paper for the settings of the paper's text, reference for those of its code, or both with a comma.
        seeds: Their number, from 0, or a list with commas.
        budget: Share of the arithmetic, in (0, 1]; see :func:`exml.recipes.at_budget`.
        own_budget: The budget of our own recipe in the tables, which takes minutes where appendix B takes hours; by
            default the same.
        expert_training: Settings of the experts' training other than those of appendix A, such as
            epochs=4,schedule=cosine.
        experts: Folder of the experts, with a folder SCENARIO-SEED for each stream; OUT/experts by default. Experts
            that are there are not trained again.
        figure3_scenario: The scenario of Figure 3.
        buffer_sizes: Those of Figure 3, separated by commas.
        device: Where to run, as torch names it: 'cpu' or 'cuda'.
        compile: See exml run.
        precision: See exml run.
        threads: Processor cores of each cell.
        gpus: GPUs of each cell; below 1, cells share one. By default 1 on 'cuda'.

    Raises:
        SettingError: a number out of range, or a value given twice.

    >>> Reproduction(parts=("table2",), expert_training="epochs=4").scenario("mnist-nc")
    'mnist-nc:epochs=4'
    """

    parts: Annotated[tuple[str, ...], Parameter(parse=False)] = attrs.field(
        default=("table2", "table3"), validator=_distinct
    )
    scenarios: Annotated[tuple[str, ...], _listed()] = ()
    strategies: Annotated[tuple[str, ...], _listed()] = ()
    recipes: Annotated[tuple[Family, ...], _listed()] = attrs.field(
        default=("paper",), validator=[_distinct, attrs.validators.deep_iterable(one_of("paper", "reference"))]
    )
    seeds: Annotated[tuple[int, ...], Parameter(converter=_seeds)] = attrs.field(
        default=(0, 1, 2, 3, 4), validator=[_distinct, attrs.validators.deep_iterable(in_range(0, integer=True))]
    )
    budget: float = attrs.field(default=1.0, validator=in_range(0, 1, open_low=True))
    own_budget: float | None = attrs.field(default=None, validator=in_range(0, 1, open_low=True, optional=True))
    expert_training: str = ""
    experts: Path | None = None
    figure3_scenario: str = "cifar10-mt"
    buffer_sizes: Annotated[tuple[int, ...], _listed(int)] = attrs.field(
        default=(10, 50, 100, 500, 1_000, 5_000),
        validator=[_distinct, attrs.validators.deep_iterable(in_range(1, integer=True))],
    )
    device: str = "cpu"
    compile: Literal["never", "capture", "always", "auto"] = "never"
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int = attrs.field(default=1, validator=positive_int())
    gpus: float | None = None

    @property
    def resources(self) -> Resources:
        """What each cell has to itself."""
        gpus = float(self.device.startswith("cuda")) if self.gpus is None else self.gpus
        return Resources(cpus=self.threads, gpus=gpus)

    def scenario(self, column: str) -> str:
        """The scenario of a column with the training of its experts."""
        return f"{column}:{self.expert_training}" if self.expert_training else column

    def budget_of(self, row: str) -> float:
        """The budget of a row of the tables."""
        return self.own_budget if row == OWN and self.own_budget is not None else self.budget
