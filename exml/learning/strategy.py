"""Strategy: all settings of a learner, without tensors, devices or seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import attrs
import yaml

from exml import augmentation, buffers, calibrations, combiners, generators, losses, normalizers, priors, scenarios
from exml.core.errors import ConfigError, StrategyError
from exml.core.files import read_yaml, write_text
from exml.core.html import table
from exml.core.imports import import_all
from exml.core.plain import parse_yaml
from exml.core.registry import ROLES, component, misfit
from exml.core.serialization import OMIT_DEFAULT, from_plain, leaves, to_plain
from exml.core.validators import one_of
from exml.engine import Training
from exml.protocols import Augmentation, BufferPolicy, Calibration, Combiner, Generator, Loss, Normalizer, Prior

FAMILIES = (augmentation, buffers, calibrations, combiners, generators, losses, normalizers, priors, scenarios)
"""The modules whose components a strategy file may name; importing them registers their kinds."""


@component
@attrs.frozen(repr=False)
class Strategy:
    """One Ex-Model Distillation strategy (Secs. 3 and 4): what :class:`exml.StrategyBuilder` builds.

    It prints, compares, hashes, and serializes to YAML and JSON; it holds no tensor, device or seed. A StrategyError
    lists every part that is misplaced or has no effect.

    Args:
        generator: A^gen, the source of the images (Sec. 4).
        combiner: combines the logits of the previous student and the expert into one target (Eq. 8).
        buffer: decides which samples of earlier experiences to keep (Sec. 3).
        loss: of the student (Eqs. 9, 10).
        training: optimizer, schedule and iterations per experience.
        normalizer: brings each teacher's logits to a common scale (Eqs. 6, 7).
        prior: natural image prior (Sec. 4.1), for generators that optimize pixels.
        augmentation: of the images, in generation and in distillation (Sec. 4.1).
        student: each experience continues with the student (``"continue"``) or resets it to its initial weights
            (``"reset"``); with ``"first-expert"``, the first experience copies its expert into the student,
            and does not distill unless there is a calibration.
        on_suspect: what to do with an expert that is probably broken or poisoned (:class:`exml.experts.Screening`):
            ``"refuse"`` it, ``"warn"`` and learn from it, or ``"accept"`` it silently. None refuses it in a followed
            folder and warns elsewhere.
        calibration: puts the logits of each expert on a common scale before distillation; None leaves them as they are.
    """

    generator: Generator
    combiner: Combiner
    buffer: BufferPolicy
    loss: Loss
    training: Training
    normalizer: Normalizer
    prior: Prior | None = None
    augmentation: Augmentation | None = None
    student: Literal["continue", "reset", "first-expert"] = attrs.field(
        default="continue", validator=one_of("continue", "reset", "first-expert")
    )

    on_suspect: Literal["refuse", "warn", "accept"] | None = attrs.field(
        default=None, validator=one_of("refuse", "warn", "accept", None)
    )
    calibration: Calibration | None = attrs.field(default=None, metadata=OMIT_DEFAULT)

    def __attrs_post_init__(self) -> None:
        problems = misplaced({name: getattr(self, name) for name in attrs.fields_dict(Strategy) if name in ROLES})
        if problems:
            raise StrategyError(problems)

    def __repr__(self) -> str:
        """A block with one line per part, or per field of a part that is longer."""
        from rich.pretty import pretty_repr

        return pretty_repr(self, max_width=120)

    def _repr_html_(self) -> str:
        """A table of the fields, for notebooks."""
        found = dict(leaves(self.to_dict()))
        del found["kind"]
        return table(("field", "value"), found.items())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, each part tagged with its ``kind``; :meth:`from_dict` is the inverse."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, plain: Any, /) -> Strategy:
        """The strategy of some plain data; raises :class:`exml.core.errors.ConfigError` with the path of the fault."""
        return from_plain(plain, cls)

    def to_yaml(self) -> str:
        """The strategy as YAML, fields in their order."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str, /) -> Strategy:
        """The inverse of :meth:`to_yaml`; also reads JSON."""
        return cls.from_dict(parse_yaml(text))

    def to_json(self) -> str:
        """The strategy as JSON; :meth:`from_yaml` reads it back."""
        return json.dumps(self.to_dict(), indent=2)

    def save(self, path: Path | str) -> None:
        """Write the strategy atomically, as JSON if the name ends in ``.json``, otherwise as YAML."""
        path = Path(path)
        write_text(path, self.to_json() if path.suffix == ".json" else self.to_yaml())

    @classmethod
    def load(cls, path: Path | str) -> Strategy:
        """Read a strategy from a YAML or JSON file of at most 1 MB; a ConfigError names the file.

        The file may have ``imports``: a list of Python modules, or paths of files relative to its folder, that register
        components. They are imported first, which executes their code. :meth:`from_yaml` imports nothing.
        """
        path = Path(path)
        plain = read_yaml(path, "a strategy")
        if isinstance(plain, dict) and "imports" in plain:
            names = plain.pop("imports")
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                remedy = "write [my_parts]"
                raise ConfigError("imports", expected=f"a list of modules in {path}", got=repr(names), remedy=remedy)
            import_all(
                [str(path.parent / name) if name.endswith(".py") else name for name in names], f"{path}: imports"
            )
        return from_plain(plain, cls)


def misplaced(parts: dict[str, Any]) -> list[str]:
    """The problems of the parts by role, each with its remedy."""
    problems = [
        f"{role} is {part!r}, which is no {role}, since {why}: give it a component of the {role} family"
        for role, part in parts.items()
        if part is not None and (why := misfit(part, role)) is not None
    ]
    generator, prior = parts.get("generator"), parts.get("prior")
    if not problems and generator is not None and prior is not None and not generator.uses_priors:
        problems.append(
            f"prior has no effect, since {type(generator).__name__} optimizes no pixels: "
            "leave the priors out, or use a generator such as ModelInversion"
        )
    return problems
