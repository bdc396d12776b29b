"""Accuracy of a student, its experts and their ensembles on labeled images."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from pathlib import Path
from typing import Literal, TypeAlias

import attrs
import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from exml.core.errors import BaselineError, DataError, ExmlError, ExpertError, ShapeError, nearest, printable, shortened
from exml.core.expert import Expert
from exml.core.files import MEGABYTE, read_bytes
from exml.core.registry import component
from exml.core.samples import Samples
from exml.core.shapes import ClassMask, Images, Labels
from exml.core.validators import in_range, one_of
from exml.engine.forward import ExpertLogits
from exml.experts import Entry, ExpertStream, LabelPlan, entries, load_expert, read_cards
from exml.learning.strategy import Strategy
from exml.runs.agreement import label_names
from exml.runs.audit import target_predictor
from exml.runs.evaluation import CHUNK, ENSEMBLES
from exml.runs.pictures import as_pixels

Role: TypeAlias = Literal["student", "expert", "ensemble", "target"]
_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"])
_LISTED = 10  # faults named in an error
_WORST = 15  # labels shown where the confusion matrix does not fit
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
    role: Role = attrs.field(validator=one_of("student", "expert", "ensemble", "target"))
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
        classifiers: the student, the experts, the ensembles if there are several experts, and the target, if it was
            asked for and there is one.
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
    strategy: Strategy | None = None,
    seed: int = 0,
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
        strategy: of the student, which learned from these experts in this order: evaluate its target too, as in
            :class:`exml.runs.TargetAudit`.
        seed: with which it learned.

    Raises:
        DataError: no image, labels that the student does not know, or files that are not images; it lists them.
        ExpertError: an expert has another image shape or other classes than the student.
        ShapeError: samples have another image shape than the student.

    >>> import exml, torch
    >>> from exml.runs import assess
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> student = exml.Expert(head, labels=("cat", "dog"), image_shape=(1, 2, 2))
    >>> images = torch.rand(6, 1, 2, 2)
    >>> assess(student, exml.Samples.of(images, student.predicted_ids(images))).classifiers[0].accuracy
    1.0
    """
    stream = ExpertStream(experts)
    names = label_names(student)
    ids = torch.tensor(list(names))
    classes = 1 + int(ids.max())
    if isinstance(images, Samples) and tuple(images.images.shape[1:]) != student.image_shape:
        expected = f"samples of the student's image shape {student.image_shape}"
        remedy = "resize them, or give a folder: files are resized"
        raise ShapeError(expected=expected, got=f"{tuple(images.images.shape[1:])}", remedy=remedy)
    labeled = images if isinstance(images, Samples) else labeled_files(Path(images), names, ignore_unknown)
    size = max(1, CHUNK // (prod(student.image_shape) + classes * max(1, len(stream))))
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    tallies: list[_Tally] = []
    target = None if strategy is None or not len(stream) else target_predictor(strategy, stream, classes, seed)
    for pixels, truth in _parts(labeled, student, size):
        part = _part(student, stream, pixels, classes)
        if target is not None:
            try:
                scores = target(pixels, None)
                part.append(
                    _Tally("target", "target of the student", ~scores[0].isneginf().cpu(), scores.argmax(1).cpu())
                )
            except BaselineError:  # it reads the labels of generated images
                target = None
        tallies = tallies or part
        for tally, found in zip(tallies, part, strict=True):
            tally.hits += truth[found.predicted == truth].bincount(minlength=classes)
        confusion += (truth * classes + part[0].predicted).bincount(minlength=classes**2).view(classes, classes)
    counts = confusion.sum(1)
    return Assessment(
        labels=tuple(names.values()),
        images=tuple(counts[ids].tolist()),
        classifiers=tuple(_row(tally, tallies[0].hits, counts, ids) for tally in tallies),
        confusion=tuple(map(tuple, confusion[ids][:, ids].tolist())),
    )


@attrs.define(eq=False)
class _Tally:
    """The predictions of a classifier for some images, and how many images of each class it has right."""

    role: Role
    name: str
    known: ClassMask
    predicted: Labels
    hits: Tensor = attrs.field(default=attrs.Factory(lambda self: torch.zeros(len(self.known)).long(), takes_self=True))


def _part(student: Expert, experts: ExpertStream, images: Images, classes: int) -> list[_Tally]:
    ours = ExpertLogits.of(student, images, classes)
    found = [_Tally("student", student.name, ours.known, ours.predicted)]
    logits: list[ExpertLogits] = []
    for expert in experts:
        logits.append(ExpertLogits.of(expert, images, classes))
        found.append(_Tally("expert", expert.name, logits[-1].known, logits[-1].predicted))
    if len(logits) > 1:
        known = torch.stack([one.known for one in logits]).any(0)
        for name, ensemble in ENSEMBLES.items():
            scores = ensemble.combine(one.full() for one in logits)
            found.append(_Tally("ensemble", name, known, scores.argmax(1)))
    return found


def _row(tally: _Tally, students: Tensor, counts: Tensor, ids: Labels) -> ClassifierAccuracy:
    own = int(counts[tally.known].sum())
    return ClassifierAccuracy(
        name=tally.name,
        role=tally.role,
        accuracy=int(tally.hits.sum()) / int(counts.sum()),
        own_images=own,
        own=int(tally.hits[tally.known].sum()) / own if own else None,
        student=int(students[tally.known].sum()) / own if own else None,
        labels=tuple(int(tally.hits[i]) / int(counts[i]) if counts[i] else None for i in ids.tolist()),
    )


def expert_loads(
    student: Expert, folder: Path | str, plan: LabelPlan | None = None, *, trust: bool = False
) -> list[Callable[[], Expert]]:
    """Functions that load the experts of a folder with the class ids and the image shape of a student.

    Labels of an expert are those of the student with the same name, and class ids those with the same number; others
    are left out.

    Args:
        student: the classifier.
        folder: of experts in any format.
        plan: the label plan of the student, which has priority over the names.
        trust: whether to accept formats whose loading executes code.

    Raises:
        StreamError: the folder is missing or empty.
        ExpertError: metadata are missing, or an expert and the student have no label in common.
    """
    names = label_names(student)
    cards, known = read_cards(folder), set(names.values())
    experts: dict[str, Mapping[str, str | None]] = {} if plan is None else dict(plan.experts)
    for name, card in cards.items():
        own = card.labels or tuple(map(str, card.classes))
        same = {label: label if label in known else None for label in own}
        experts.setdefault(name, same)
        if not any(experts[name].values()):
            labels = shortened(", ".join(map(repr, own)), 200)
            expected = f"labels of the student, such as {next(iter(names.values()))!r}, for expert {name!r}"
            raise ExpertError(expected=expected, got=labels, remedy="add its labels to its card, or move it away")
    if plan is None:
        labels = None if student.labels is None else tuple(names.get(i, f"no label {i}") for i in range(max(names) + 1))
        plan = LabelPlan(student.image_shape, experts, labels, max(names) + 1)
    plan = attrs.evolve(plan, experts=experts)
    found = entries(folder)
    return [partial(_load, plan, name, found[name], trust) for name in cards]


def _load(plan: LabelPlan, name: str, entry: Entry, trust: bool) -> Expert:
    return plan.apply(name, load_expert(entry, trust=trust))


def labeled_files(path: Path, names: Mapping[int, str], ignore_unknown: bool = False) -> list[tuple[Path, int]]:
    """The images below a folder, or those that a CSV file lists, with the class ids of their labels.

    Args:
        path: a folder with one subfolder per label, or a CSV file with the columns ``path`` and ``label``.
        names: the label of each class id.
        ignore_unknown: leave out images with other labels.

    Raises:
        DataError: without images, and for other labels, which it lists.
    """
    rows = _folder_rows(path) if path.is_dir() else _csv_rows(path)
    ids = {label: known for known, label in names.items()}
    unknown = sorted({label for _, label in rows if label not in ids})
    if unknown and not ignore_unknown:
        hints = [f"{label!r} (similar to {nearest(label, ids)[0]!r})" for label in unknown[:_LISTED]]
        expected = f"labels of the student in {path}: {shortened(', '.join(map(repr, ids)), 300)}"
        remedy = "rename the folders or the labels, or ignore unknown labels"
        raise DataError(expected=expected, got=", ".join([*hints, *_more(unknown)]), remedy=remedy)
    found = [(file, ids[label]) for file, label in rows if label in ids]
    if not found:
        got = f"{len(rows)} images with other labels" if rows else "none"
        remedy = "give a folder with one subfolder per label, or a CSV file with the columns path and label"
        raise DataError(expected=f"labeled images in {path}", got=got, remedy=remedy)
    return found


def _folder_rows(path: Path) -> list[tuple[Path, str]]:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and folder.name[0] != ".")
    return [
        (file, folder.name)
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in _SUFFIXES and not any(part[0] == "." for part in file.relative_to(folder).parts)
    ]


def _csv_rows(path: Path) -> list[tuple[Path, str]]:
    expected, remedy = f"a CSV file with the columns path and label in {path}", "correct the file"
    try:
        table = csv.DictReader(io.StringIO(read_bytes(path, 64 * MEGABYTE).decode("utf-8-sig"), newline=""))
        columns = set(table.fieldnames or ())
        lines = [(table.line_num, row["path"], row["label"]) for row in table] if columns >= {"path", "label"} else None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(expected=expected, got=str(error), remedy=remedy) from error
    if lines is None:
        raise DataError(expected=expected, got=f"the columns {', '.join(sorted(columns))}", remedy=remedy)
    incomplete = [number for number, file, label in lines if not file or not label]
    if incomplete:
        raise DataError(expected=expected, got=f"incomplete lines: {incomplete[:_LISTED]}", remedy=remedy)
    return [(path.parent / file, label.strip()) for _, file, label in lines]


def _parts(labeled: Samples | list[tuple[Path, int]], student: Expert, size: int) -> Iterator[tuple[Images, Labels]]:
    """Images in pixel units and class ids, in parts; broken files are listed at the end."""
    if isinstance(labeled, Samples):
        known, found = set(student.classes), set(labeled.labels.tolist())
        if not found or not found <= known:
            got = f"{sorted(found - known)}" if found else "no images"
            raise DataError(expected="images of the student's classes", got=got, remedy="select those of its classes")
        for first in range(0, len(labeled), size):
            rows = slice(first, first + size)
            yield labeled.pixels(rows).to(student.device), labeled.labels[rows].cpu()
        return
    broken: list[str] = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for first in range(0, len(labeled), size):
            part = labeled[first : first + size]
            images = torch.empty(len(part), *student.image_shape)
            faults = list(pool.map(partial(_decode, student.image_shape), [file for file, _ in part], images))
            broken += [fault for fault in faults if fault is not None]
            if not broken:
                yield images.to(student.device), torch.tensor([label for _, label in part])
    if broken:
        got = ", ".join([*broken[:_LISTED], *_more(broken)])
        raise DataError(expected="files that are images", got=got, remedy="replace them, or leave them out")


def _decode(image_shape: tuple[int, int, int], path: Path, place: Tensor) -> str | None:
    """Decode a file into its place; returns why it could not be decoded."""
    try:
        place.copy_(as_pixels(path, image_shape)[0])
    except ExmlError as error:
        return f"{path} ({error.got})"
    return None


def _more(items: Sequence[object]) -> list[str]:
    return [f"and {len(items) - _LISTED} more"] if len(items) > _LISTED else []


def assessment_table(found: Assessment, width: int = 80) -> Group:
    """Accuracies in percent of the student, the experts and the ensembles, and the student's confusions.

    The confusion matrix is shown if it fits the width; otherwise the labels with the lowest accuracy and the most
    frequent confusions.

    Args:
        found: the accuracies.
        width: characters per line.
    """
    table = _table("", max(12, width - 40))
    for head in ("all\nimages", "its\nlabels", "student\nthere", "images"):
        table.add_column(head, justify="right", vertical="bottom")
    previous = ""
    for row in found.classifiers:
        if previous not in ("", row.role):
            table.add_section()
        previous, cells = row.role, (row.accuracy, row.own, row.student)
        table.add_row(Text(printable(row.name)), *map(_percent, cells), str(row.own_images))
    title = Text(f"Accuracy on {sum(found.images)} labeled images, %", style="bold")
    wide = max(3, *(len(str(count)) for row in found.confusion for count in row)) + 1
    matrix = len(found.labels) <= (width - 34) // wide
    return Group(title, table, Text(), _label_table(found, width, matrix), *([] if matrix else _confusions(found)))


def _label_table(found: Assessment, width: int, matrix: bool) -> Table:
    student = found.classifiers[0].labels
    order = list(range(len(found.labels)))
    if not matrix:
        order = sorted(order, key=lambda place: (student[place] is None, student[place] or 0))[:_WORST]
    table = _table(
        "label" if matrix else f"label (lowest {len(order)} of {len(student)})", 20 if matrix else width - 20
    )
    table.add_column("images", justify="right")
    table.add_column("%", justify="right")
    for place in order if matrix else ():
        table.add_column(Text(printable(found.labels[place])[:3]), justify="right")
    for place in order:
        cells = map(str, found.confusion[place]) if matrix else ()
        name = Text(printable(found.labels[place]))
        table.add_row(name, str(found.images[place]), _percent(student[place]), *cells)
    return table


def _confusions(found: Assessment) -> list[Text]:
    pairs = [
        f"{printable(found.labels[i])} → {printable(found.labels[j])} ({count} of {found.images[i]})"
        for i, j, count in found.confused[:5]
    ]
    return [Text("Most frequent confusions: " + "; ".join(pairs) + ".")] if pairs else []


def _table(head: str, width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(head, max_width=width, no_wrap=True, overflow="ellipsis", vertical="bottom")
    return table


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"
