"""What is asked for."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from exml.core.errors import SettingError
from exml.core.validators import in_range, one_of
from exml.runs.sweep import Resources
from reproduction.layout import OWN, Family

FIGURES = ("figure2", "figure3")


def _distinct(instance: Any, attribute: attrs.Attribute[Any], value: tuple[Any, ...]) -> None:
    if not value or len(set(value)) != len(value):
        raise SettingError(
            expected=f"one or more different {attribute.name}", got=repr(value), remedy="list each of them once"
        )


@attrs.frozen(kw_only=True)
class Reproduction:
    """The cells of some tables and figures: every scenario with every strategy and every seed.

    Args:
        parts: names of tables, ``"figure2"``, ``"figure3"``.
        scenarios: columns of the tables, in the order in which they are begun; empty for all of these tables.
        strategies: rows, the ``"baselines"`` among them; empty for all.
        recipes: whose settings an Ex-Model Distillation has.
        seeds: of scenarios, experts and students.
        budget: see :func:`exml.recipes.at_budget`.
        own_budget: that of our own recipe in the tables, which takes minutes where appendix B takes hours; None: as the
            others.
        training: of the experts, where it shall not be that of the scenario: what stands behind the colon in a name
            such as ``"mnist-nc:epochs=4"``.
        figure3_scenario: the column that Figure 3 is about.
        buffer_sizes: those of Figure 3.
        device: as torch names it.
        compile: as :class:`exml.engine.Execution` has it, like the next.
        precision: of the networks.
        resources: of each cell while it is at work.

    Raises:
        SettingError: a number out of its range, or the same thing twice.

    >>> Reproduction(parts=("table2",), scenarios=("mnist-nc",), training="epochs=4").scenario("mnist-nc")
    'mnist-nc:epochs=4'
    """

    parts: tuple[str, ...] = attrs.field(validator=_distinct)
    scenarios: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    recipes: tuple[Family, ...] = attrs.field(
        default=("paper",), validator=[_distinct, attrs.validators.deep_iterable(one_of("paper", "reference"))]
    )
    seeds: tuple[int, ...] = attrs.field(
        default=(0, 1, 2, 3, 4), validator=[_distinct, attrs.validators.deep_iterable(in_range(0, integer=True))]
    )
    budget: float = attrs.field(default=1.0, validator=in_range(0, 1, open_low=True))
    own_budget: float | None = attrs.field(default=None, validator=in_range(0, 1, open_low=True, optional=True))
    training: str = ""
    figure3_scenario: str = "cifar10-mt"
    buffer_sizes: tuple[int, ...] = attrs.field(
        default=(10, 50, 100, 500, 1_000, 5_000),
        validator=[_distinct, attrs.validators.deep_iterable(in_range(1, integer=True))],
    )
    device: str = "cpu"
    compile: Literal["never", "capture", "always", "auto"] = "never"
    precision: Literal["float32", "bfloat16"] = "float32"
    resources: Resources = attrs.field(factory=Resources)

    def scenario(self, column: str) -> str:
        """The name of a column's scenario with the training that its experts shall have."""
        return f"{column}:{self.training}" if self.training else column

    def budget_of(self, row: str) -> float:
        """That of a row of the tables."""
        return self.own_budget if row == OWN and self.own_budget is not None else self.budget
