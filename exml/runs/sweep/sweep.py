"""The file of a sweep: what is varied, and the resources of each run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
import yaml

from exml.core.errors import ConfigError, SettingError
from exml.core.execution import Execution
from exml.core.files import write_text
from exml.core.registry import component
from exml.core.serialization import from_plain, to_plain
from exml.core.validators import in_range, one_of
from exml.runs.jobs import Resources
from exml.runs.run import RunSettings


def _not_empty(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not value:
        raise SettingError(
            expected=f"at least one of {type(instance).__name__}.{attribute.name}",
            got="none",
            remedy=f"list one in {attribute.name}",
        )


def _each_with_values(instance: Any, attribute: attrs.Attribute[Any], value: Mapping[str, tuple[Any, ...]]) -> None:
    for path, values in value.items():
        if not values:
            raise SettingError(
                expected=f"at least one value for {type(instance).__name__}.{attribute.name}[{path}]",
                got="none",
                remedy="list one, or omit the field",
            )


@component(kind="sweep-choice")
@attrs.frozen
class Choice:
    """One strategy of a sweep, with its own fields to vary.

    Args:
        strategy: name of a recipe, or path of a YAML or JSON file.
        fields: as in :class:`Sweep`, for this strategy only; they replace fields of the sweep with the same path.
    """

    strategy: str
    fields: Mapping[str, tuple[Any, ...]] = attrs.field(factory=dict[str, tuple[Any, ...]], validator=_each_with_values)


@component
@attrs.frozen(kw_only=True)
class Sweep:
    """A grid of runs: every scenario with every strategy, every combination of its fields, and every seed.

    Args:
        scenarios: their names.
        strategies: each the name of a recipe, the path of a YAML or JSON file, or a :class:`Choice`.
        seeds: of scenarios, experts and students.
        fields: values to try for fields of the strategies, by their paths in the plain form of a strategy, such as
            ``training.iterations`` or ``prior.parts[0].weight``. A value may be a whole part with its ``kind``. Every
            strategy must have each field.
        split: the images that the accuracies are measured on.
        device: of each run, as torch names it. ``"cuda"`` is the first GPU of a run with its own GPUs.
        compile: see :class:`exml.engine.Execution`.
        precision: see :class:`exml.engine.Execution`.
        resources: of each run.
        imports: Python modules, or files, that register your own scenarios and components; every process imports them.

    Raises:
        SettingError: an empty list, a device that torch does not know, or a device ``"cuda"`` without GPUs.

    >>> sweep = Sweep(scenarios=("digits-nc",), strategies=("exml",), fields={"generator.iterations": (5, 10)})
    >>> sweep.split, sweep.resources.cpus
    ('test', 1)
    >>> Sweep.from_dict({"scenarios": ["digits-nc"], "strategy": ["exml"]})
    Traceback (most recent call last):
    exml.core.errors.ConfigError: expected one of the keys scenarios, strategies, seeds, fields, split, device, compile,
        precision, resources, imports at strategy, got 'strategy'; remedy: remove or rename it
    """

    scenarios: tuple[str, ...] = attrs.field(validator=_not_empty)
    strategies: tuple[Choice | str, ...] = attrs.field(validator=_not_empty)
    seeds: tuple[int, ...] = attrs.field(
        default=(0,), validator=[_not_empty, attrs.validators.deep_iterable(in_range(0, integer=True))]
    )
    fields: Mapping[str, tuple[Any, ...]] = attrs.field(factory=dict[str, tuple[Any, ...]], validator=_each_with_values)
    split: Literal["test", "validation"] = attrs.field(default="test", validator=one_of("test", "validation"))
    device: str = "cpu"
    compile: Literal["never", "capture", "always", "auto"] = attrs.field(
        default="never", validator=one_of("never", "capture", "always", "auto")
    )
    precision: Literal["float32", "bfloat16"] = attrs.field(default="float32", validator=one_of("float32", "bfloat16"))
    resources: Resources = attrs.field(factory=Resources)
    imports: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        got = f"device {self.device!r}"
        try:
            kind = self.device if self.device == "auto" else torch.device(self.device).type
        except RuntimeError:
            expected = "a device as torch names it, such as 'cpu' or 'cuda'"
            raise SettingError(expected=expected, got=got, remedy="correct it") from None
        if kind == "cuda" and not self.resources.gpus:
            expected = "resources.gpus > 0 for a sweep on GPUs"
            raise SettingError(expected=expected, got=got, remedy="set the number of GPUs of each run")

    def settings(self, seed: int) -> RunSettings:
        """The settings of a run with a seed."""
        return RunSettings(seed, self.device, Execution(self.compile, self.precision))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :meth:`from_dict` is the inverse."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, plain: Any, /) -> Sweep:
        """A sweep from plain data.

        Raises:
            ConfigError: with the path of the fault.
        """
        return from_plain(plain, cls)

    def save(self, path: Path | str) -> None:
        """Write the sweep atomically, as YAML."""
        write_text(Path(path), yaml.safe_dump(self.to_dict(), sort_keys=False))

    @classmethod
    def load(cls, path: Path | str) -> Sweep:
        """Read a sweep; relative paths in it start at its folder.

        Raises:
            ConfigError: the file does not exist, is not YAML, or has a fault, named by its path.
        """
        path = Path(path)
        try:
            plain = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "", expected=f"a sweep in {path}", got=str(error), remedy="name a YAML file that exists"
            ) from None
        except yaml.YAMLError as error:
            raise ConfigError(
                "", expected=f"YAML in {path}", got=" ".join(str(error).split()), remedy="correct the syntax"
            ) from None
        sweep = cls.from_dict(plain)

        def absolute(name: str) -> str:
            return str((path.parent / name).resolve()) if is_file(name) else name

        def move(choice: Choice | str) -> Choice | str:
            if isinstance(choice, str):
                return absolute(choice)
            return attrs.evolve(choice, strategy=absolute(choice.strategy))

        return attrs.evolve(
            sweep,
            strategies=tuple(move(choice) for choice in sweep.strategies),
            imports=tuple(absolute(name) for name in sweep.imports),
        )


def is_file(name: str) -> bool:
    """Whether the name of a strategy or module is the path of a file."""
    return name.endswith((".yaml", ".yml", ".json", ".py")) or os.sep in name
