"""The frozen strategy: everything that a learner needs to know, and nothing that lives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import attrs
import yaml

from exml import augmentation, buffers, combiners, generators, losses, normalizers, priors, scenarios
from exml.core.errors import ConfigError, StrategyError
from exml.core.files import write_text
from exml.core.registry import ROLES, component, misfit
from exml.core.serialization import from_plain, to_plain
from exml.core.validators import one_of
from exml.engine import Training
from exml.protocols import Augmentation, BufferPolicy, Combiner, Generator, Loss, Normalizer, Prior

FAMILIES = (augmentation, buffers, combiners, generators, losses, normalizers, priors, scenarios)
"""The rooms whose components a strategy file may name: importing them registers their kinds."""


@component
@attrs.frozen
class Strategy:
    """One Ex-Model Distillation strategy (Secs. 3 and 4): what :class:`exml.StrategyBuilder` builds.

    It prints, compares, hashes, and goes to YAML or JSON and back; it holds no tensor, device or seed.

    Args:
        generator: A^gen, where the images come from (Sec. 4).
        combiner: makes one target of the previous student's and the expert's logits (Eq. 8).
        buffer: what is kept of earlier experiences (Sec. 3).
        loss: what the student minimises (Eqs. 9, 10).
        training: optimizer, schedule and iterations of one experience.
        normalizer: puts each teacher's logits on a common scale (Eqs. 6, 7).
        prior: natural image prior (Sec. 4.1), for generators that optimise pixels.
        augmentation: of images, in generation and in distillation (Sec. 4.1).
        student: how an experience begins: ``"continue"`` from the last, ``"reset"`` to the initialisation, or
            ``"first-expert"``: the first experience makes the student a copy of its expert.

    Raises:
        StrategyError: listing every part that cannot stand where it was put, or has no effect there.
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

    def __attrs_post_init__(self) -> None:
        problems = misplaced({role: getattr(self, role) for role in ROLES})
        if problems:
            raise StrategyError(problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, each part tagged with its ``kind``; :meth:`from_dict` is the inverse."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, plain: Any, /) -> Strategy:
        """A strategy from plain data; raises :class:`exml.core.errors.ConfigError` with the path of the fault."""
        return from_plain(plain, cls)

    def to_yaml(self) -> str:
        """The strategy as YAML, fields in their order."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str, /) -> Strategy:
        """The inverse of :meth:`to_yaml`; JSON is read as well."""
        try:
            plain = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(
                "", expected="YAML", got=" ".join(str(error).split()), remedy="correct the syntax"
            ) from None
        return cls.from_dict(plain)

    def to_json(self) -> str:
        """The strategy as JSON; :meth:`from_yaml` reads it back."""
        return json.dumps(self.to_dict(), indent=2)

    def save(self, path: Path | str) -> None:
        """Write the strategy atomically, as JSON if the name ends so and as YAML otherwise."""
        path = Path(path)
        write_text(path, self.to_json() if path.suffix == ".json" else self.to_yaml())

    @classmethod
    def load(cls, path: Path | str) -> Strategy:
        """Read a strategy that :meth:`save`, or a person, wrote."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "", expected=f"a strategy in {path}", got=str(error), remedy="name a YAML or JSON file that exists"
            ) from None
        return cls.from_yaml(text)


def misplaced(parts: dict[str, Any]) -> list[str]:
    """What is wrong with the parts of a strategy that are there, by role; one sentence each, with its remedy."""
    problems = [
        f"{role} is {part!r}, which is no {role}, since {why}: give it a component of the {role} family"
        for role, part in parts.items()
        if part is not None and (why := misfit(part, role)) is not None
    ]
    generator, prior = parts.get("generator"), parts.get("prior")
    if not problems and generator is not None and prior is not None and not generator.uses_priors:
        problems.append(
            f"prior has no effect, since {type(generator).__name__} optimises no pixels: "
            "leave the priors out, or take a generator such as ModelInversion"
        )
    return problems
