"""The outcome of learning: a classifier to predict with, to save and to export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np
import torch
from torch import Tensor

from exml.core.errors import ConfigError, SettingError
from exml.core.expert import Expert
from exml.core.samples import Samples, inference_batch_size
from exml.experts import read_expert, save_pretrained
from exml.experts.exporting import Format, export
from exml.learning.strategy import Strategy
from exml.runs.agreement import Agreement
from exml.runs.assessment import Assessment, assess
from exml.runs.pictures import Picture, as_pixels
from exml.runs.result import Result, StrategyResult

Prediction: TypeAlias = dict[str, float]
"""Probabilities by label, the most probable first."""


@attrs.frozen(eq=False, repr=False)
class Student:
    """A trained student with its report. :func:`exml.learn` returns one; :meth:`load` reads one from its folder.

    Args:
        expert: the student as an expert, from which another student can learn.
        result: what its run measured; None for a classifier of another origin.
        provenance: where it comes from; see :func:`exml.experts.save_pretrained`.
        folder: that it was read from; None if it was not.

    >>> import exml, torch
    >>> from exml.runs import Student
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> pets = Student(exml.Expert(head, labels=["cat", "dog"], image_shape=(1, 8, 8)))
    >>> pets
    Student(2 classes, images 1x8x8)
    >>> sorted(pets.predict(torch.rand(3, 40, 30)))
    ['cat', 'dog']
    """

    expert: Expert
    result: Result | None = attrs.field(default=None)
    provenance: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    folder: Path | None = None

    def __repr__(self) -> str:
        channels, height, width = self.expert.image_shape
        return f"Student({len(self.labels)} classes, images {channels}x{height}x{width})"

    @classmethod
    def load(cls, folder: Path | str, *, trust: bool = False) -> Student:
        """The student in a folder that ``exml learn`` or :meth:`save` wrote; or any classifier that exml reads.

        Args:
            folder: path of the folder; of a file, for a classifier in another format.
            trust: whether to accept formats whose loading executes code; see :func:`exml.load`.

        Raises:
            ExpertError: the classifier is missing, damaged, or lacks metadata.
            ConfigError: ``result.json`` in the folder is damaged.
        """
        files = read_expert(folder, trust=trust)
        report = Path(folder) / "result.json"
        result = Result.load(report) if report.is_file() else None
        return cls(files.expert(), result, files.card.training, Path(folder))

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each class, in the order of ``expert.classes``; the number of a class without a name."""
        return self.expert.labels or tuple(map(str, self.expert.classes))

    @property
    def agreement(self) -> Agreement | None:
        """How well it agrees with the experts that it learned from, measured without data."""
        row = self._row
        return None if row is None else row.agreement

    @property
    def _row(self) -> StrategyResult | None:
        return None if self.result is None else self.result.preferred

    def predict(self, images: Picture | Sequence[Picture], *, top: int | None = None) -> Prediction | list[Prediction]:
        """Probabilities by label, the most probable first: the softmax of the logits over the classes.

        Gray and color are converted, and images of another size are resized as a whole, with antialiasing.

        Args:
            images: an image, or a list or a batch ``(n, channels, height, width)`` of images.
            top: the number of labels to return; by default all.

        Returns:
            dict: of one image; a list of them for several.

        Raises:
            DataError: a file that is not an image.
            ShapeError: a tensor or array that is not an image.
            SettingError: ``top`` < 1.
        """
        if top is not None and top < 1:
            raise SettingError(expected="top >= 1", got=str(top), remedy="leave it out for all labels")
        several = isinstance(images, list | tuple) or (isinstance(images, Tensor | np.ndarray) and images.ndim == 4)
        pictures: Sequence[Picture] = images if several else [images]  # pyright: ignore[reportAssignmentType]
        found: list[Prediction] = []
        size = inference_batch_size(self.expert.image_shape)
        for first in range(0, len(pictures), size):
            pixels = torch.cat([as_pixels(each, self.expert.image_shape) for each in pictures[first : first + size]])
            with torch.no_grad():
                logits = self.expert.own_logits(self.expert.logits(pixels.to(self.expert.device)))
            for row in logits.softmax(1).cpu():
                order = row.argsort(descending=True, stable=True)[:top].tolist()
                found.append({self.labels[place]: float(row[place]) for place in order})
        return found if several else found[0]

    def evaluate(
        self,
        images: Path | str | Samples,
        experts: Sequence[Expert | Path | str | Callable[[], Expert]] = (),
        *,
        ignore_unknown: bool = False,
    ) -> Assessment:
        """Accuracy on labeled images, and that of experts and their ensembles; see :func:`exml.runs.assess`.

        With all experts that the student learned from, in this order, it includes the target.
        """
        strategy, seed, row = None, 0, self._row
        if self.result is not None and row is not None and experts and row.experiences == len(experts):
            seed = self.result.seed
            with suppress(ConfigError):  # components that are not imported here
                strategy = Strategy.from_dict(row.strategy)
        return assess(self.expert, images, experts, ignore_unknown=ignore_unknown, strategy=strategy, seed=seed)

    def save(self, folder: Path | str) -> Path:
        """Write the folder that :meth:`load` reads, in the layout of :func:`exml.experts.save_pretrained`."""
        save_pretrained(self.expert, folder, provenance=self.provenance)
        if self.result is not None:
            self.result.save(Path(folder) / "result.json")
        return Path(folder)

    def export(self, path: Path | str, *, format: Format | None = None) -> Path:
        """Write one file that needs no exml; :func:`exml.experts.export` documents it."""
        return export(self.expert, path, format=format)
