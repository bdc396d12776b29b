"""The file of a sweep: what is varied, and the resources of each run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
import yaml

from exml.core.errors import SettingError
from exml.core.execution import Execution
from exml.core.files import read_yaml, write_text
from exml.core.registry import component
from exml.core.serialization import from_plain, to_plain
from exml.core.validators import in_range
from exml.runs.jobs import Resources
from exml.runs.run import RunSettings


def _not_empty(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Refuse an empty tuple, and a field without values."""
    name = f"{type(instance).__name__}.{attribute.name}"
    lists = (
        {f"{name}[{path}]": values for path, values in value.items()} if attribute.name == "fields" else {name: value}
    )
    for name, values in lists.items():
        if not values:
            raise SettingError(expected=f"at least one value for {name}", got="none", remedy="list one")


@component(kind="sweep-choice")
@attrs.frozen
class Choice:
    """One strategy of a sweep, with its own fields to vary.

    Args:
        strategy: name of a recipe, or path of a YAML or JSON file.
        fields: as in :class:`Sweep`, for this strategy only; they replace fields of the sweep with the same path.
    """

    strategy: str
    fields: Mapping[str, tuple[Any, ...]] = attrs.field(factory=dict[str, tuple[Any, ...]], validator=_not_empty)


@component
@attrs.frozen(kw_only=True)
class Sweep:
    """A grid of runs: every scenario with every strategy, every combination of its fields, and every seed.

    Args:
        scenarios: their names.
        strategies: each the name of a recipe, the path of a YAML or JSON file, or a :class:`Choice`.
        seeds: of scenarios, experts and students.
        fields: values to try for fields of the strategies, by their paths in the plain form of a strategy, such as
            ``training.iterations`` or ``prior.priors[0].weight``. A value may be a whole part with its ``kind``. Every
            strategy must have each field.
        split: the images that the accuracies are measured on.
        device: of each run, as torch names it. ``"cuda"`` is the first GPU of a run with its own GPUs.
        compile: see :class:`exml.engine.Execution`.
        precision: see :class:`exml.engine.Execution`.
        resources: of each run.
        imports: Python modules, or files, that register your own scenarios and components; every process imports them.

    Raises:
        SettingError: an empty list, a device that torch does not know, or a device ``"cuda"`` without GPUs.

    >>> from exml.runs.sweep import Sweep
    >>> sweep = Sweep(scenarios=("digits-nc",), strategies=("exml",), fields={"generator.iterations": (5, 10)})
    >>> sweep.split, sweep.resources.cpus
    ('test', 1)
    """

    scenarios: tuple[str, ...] = attrs.field(validator=_not_empty)
    strategies: tuple[Choice | str, ...] = attrs.field(validator=_not_empty)
    seeds: tuple[int, ...] = attrs.field(
        default=(0,), validator=[_not_empty, attrs.validators.deep_iterable(in_range(0, integer=True))]
    )
    fields: Mapping[str, tuple[Any, ...]] = attrs.field(factory=dict[str, tuple[Any, ...]], validator=_not_empty)
    split: Literal["test", "validation"] = "test"
    device: str = "cpu"
    compile: Literal["never", "capture", "always", "auto"] = "never"
    precision: Literal["float32", "bfloat16"] = "float32"
    resources: Resources = attrs.field(factory=Resources)
    imports: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        self.settings(0)  # raises for unknown values of compile and precision
        expected = "a device as torch names it, such as 'cpu' or 'cuda'"
        try:
            if self.device == "auto" or torch.device(self.device).type != "cuda" or self.resources.gpus:
                return
            expected = "resources.gpus > 0 for a sweep on GPUs"
        except RuntimeError:
            pass
        raise SettingError(expected=expected, got=f"device {self.device!r}", remedy="correct one of them")

    def settings(self, seed: int) -> RunSettings:
        """The settings of a run with a seed."""
        return RunSettings(seed, self.device, Execution(self.compile, self.precision))

    def save(self, path: Path | str) -> None:
        """Write the sweep atomically, as YAML."""
        write_text(Path(path), yaml.safe_dump(to_plain(self), sort_keys=False))

    @classmethod
    def load(cls, path: Path | str) -> Sweep:
        """Read a sweep; relative paths in it start at its folder.

        Raises:
            ConfigError: the file does not exist, is not YAML, or has a fault, named by its path.
        """
        path = Path(path)
        sweep = from_plain(read_yaml(path, "a sweep as YAML"), cls)

        def absolute(name: Any) -> Any:
            if isinstance(name, Choice):
                return attrs.evolve(name, strategy=absolute(name.strategy))
            return str((path.parent / name).resolve()) if is_file(name) else name

        paths = {name: tuple(map(absolute, getattr(sweep, name))) for name in ("strategies", "imports")}
        return attrs.evolve(sweep, **paths)


def is_file(name: str) -> bool:
    """Whether the name of a strategy or module is the path of a file."""
    return name.endswith((".yaml", ".yml", ".json", ".py")) or os.sep in name
