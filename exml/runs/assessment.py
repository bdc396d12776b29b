"""Accuracy of a student, its experts and their ensembles on labeled images."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from exml.baselines import EnsembleAverage, MinEntropy
from exml.core.errors import DataError, ExmlError, nearest, printable, shortened
from exml.core.expert import Expert
from exml.core.files import MEGABYTE, read_bytes
from exml.core.registry import component
from exml.core.samples import Samples
from exml.core.shapes import Images, Labels
from exml.core.validators import in_range, one_of
from exml.experts import ExpertStream
from exml.runs.agreement import ExpertLogits, label_names
from exml.runs.evaluation import CHUNK
from exml.runs.pictures import as_pixels

ENSEMBLES: dict[str, EnsembleAverage | MinEntropy] = {
    "mean of centered logits": EnsembleAverage("centered", "known"),
    "mean of probabilities": EnsembleAverage("probabilities", "known"),
    "most certain expert": MinEntropy("known"),
}
"""The ensembles that a student is compared with, over the classes that each expert knows."""
_SUFFIXES = frozenset(".png .jpg .jpeg .bmp .gif .webp .tif .tiff .ppm .pgm".split())
_LISTED = 10  # faults named in an error
_FRACTION = in_range(0, 1)
_OPTIONAL = in_range(0, 1, optional=True)


@component
@attrs.frozen(kw_only=True)
class ClassifierAccuracy:
    """The accuracy of one classifier; fractions from 0 to 1.

    Args:
        name: of the expert or the ensemble.
        role: what it is.
        accuracy: on all images.
        own_images: number of images whose label it knows.
        own: on these images; None without any.
        student: the accuracy of the student on these images.
        labels: on the images of each label, in the order of :attr:`Assessment.labels`; None without any.
    """

    name: str
    role: Literal["student", "expert", "ensemble"] = attrs.field(validator=one_of("student", "expert", "ensemble"))
    accuracy: float = attrs.field(validator=_FRACTION)
    own_images: int
    own: float | None = attrs.field(validator=_OPTIONAL)
    student: float | None = attrs.field(validator=_OPTIONAL)
    labels: tuple[float | None, ...]


@component
@attrs.frozen(kw_only=True)
class Assessment:
    """What :func:`assess` measured.

    Args:
        labels: of the student, by class id.
        images: number of images of each label.
        classifiers: the student, the experts, and the ensembles if there are several experts.
        confusion: of the student: row i, column j is the number of images of label i that it gives label j.
    """

    labels: tuple[str, ...]
    images: tuple[int, ...]
    classifiers: tuple[ClassifierAccuracy, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def confused(self) -> tuple[tuple[int, int, int], ...]:
        """Positions of a label and of a wrong prediction, with their number of images; the most frequent first."""
        cells = [(i, j, count) for i, row in enumerate(self.confusion) for j, count in enumerate(row) if i != j]
        return tuple(sorted((cell for cell in cells if cell[2]), key=lambda cell: -cell[2]))


def assess(
    student: Expert,
    images: Path | str | Samples,
    experts: Sequence[Expert | Path | str | Callable[[], Expert]] = (),
    *,
    ignore_unknown: bool = False,
) -> Assessment:
    """Evaluate a student, its experts and their ensembles on labeled images.

    Files may have any size; they are resized with antialiasing, and converted between gray and color. Images are
    decoded in parts, and one expert is in memory at a time; each expert is loaded once per part.

    Args:
        student: the classifier; any expert will do.
        images: a folder with one subfolder per label, a CSV file with the columns ``path`` (relative to the file) and
            ``label``, or samples with global class ids.
        experts: as of :class:`exml.experts.ExpertStream`, with the class ids and the image shape of the student.
        ignore_unknown: leave out images with labels that the student does not know, which are an error otherwise.

    Raises:
        DataError: no image, labels that the student does not know, or files that are not images; it lists them.
        ExpertError: an expert has another image shape or other classes than the student.

    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> student = Expert(head, labels=("cat", "dog"), image_shape=(1, 2, 2))
    >>> images = torch.rand(6, 1, 2, 2)
    >>> assess(student, Samples.of(images, student.predicted_ids(images))).classifiers[0].accuracy
    1.0
    """
    stream = ExpertStream(experts)
    names = label_names(student)
    ids = torch.tensor(list(names))
    classes = 1 + int(ids.max())
    labeled = images if isinstance(images, Samples) else labeled_files(Path(images), names, ignore_unknown)
    size = max(1, CHUNK // (prod(student.image_shape) + classes * max(1, len(stream))))
    tallies: dict[tuple[str, str], _Tally] = {}
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    for pixels, truth in _parts(labeled, student, size):
        ours = ExpertLogits.of(student, pixels, classes)
        confusion += (truth * classes + ours.predicted).bincount(minlength=classes**2).view(classes, classes)
        found = [("student", student.name, ours.known, ours.predicted)]
        logits = [ExpertLogits.of(expert, pixels, classes) for expert in stream]
        found += [("expert", one.name, one.known, one.predicted) for one in logits]
        known = torch.stack([one.known for one in logits]).any(0) if logits else ours.known
        for name, ensemble in ENSEMBLES.items() if len(logits) > 1 else ():
            predicted = ensemble.combine(one.full() for one in logits).argmax(1)
            found.append(("ensemble", name, known, predicted))
        for place, (role, name, mask, predicted) in enumerate(found):
            tally = tallies.setdefault((str(place), name), _Tally(role, mask, torch.zeros(classes, dtype=torch.int64)))
            tally.hits.add_(truth[predicted == truth].bincount(minlength=classes))
    ...
