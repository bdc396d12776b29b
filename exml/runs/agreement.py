"""How well a student agrees with the experts that it learned from, measured without data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from exml.baselines import EnsembleAverage, MinEntropy
from exml.core.errors import ExpertError, NonFiniteError, StreamError, printable
from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import derive_seed
from exml.core.samples import inference_batch_size
from exml.core.shapes import Images, Labels
from exml.core.validators import in_range
from exml.engine.forward import ExpertLogits
from exml.generators import ModelInversion, ProceduralImages
from exml.priors import BatchNormStatistics
from exml.protocols import GenerationContext

_INVERTED = ModelInversion(iterations=60, learning_rate=0.05, batch_size=256)
_CONTEXT = GenerationContext(prior=BatchNormStatistics(10.0, absent="ignore"))
_FRACTION = in_range(0, 1)
_OPTIONAL = in_range(0, 1, optional=True)
LOW = 0.8
"""A smaller mean of ``ExpertAgreement.relative`` is a reason for a warning."""
LOST = 0.6
"""So is a smaller one of one expert, compared with the largest one."""
FEWEST = 8
"""Number of images that show a label to its expert, from which a label without a prediction is neglected."""


@component
@attrs.frozen(kw_only=True)
class ExpertAgreement:
    """How a student agrees with one expert; shares are from 0 to 1.

    Args:
        expert: its name.
        classes: the number of its classes.
        drawings: share of the drawings on which the student, among the expert's classes, predicts what it predicts.
        inversions: the same on images that were optimized for this expert; None without a gradient.
        among_all: the same on these images, with the student's prediction among all of its classes.
        mean_logits: the share of ``inversions``, or of ``drawings``, with the mean of all experts' centered logits in
            place of the student's: below 1 where other experts of these classes contradict this one.
        predicted: share of all images on which the student predicts one of the expert's classes.
        scale: mean over all images of the standard deviation of the expert's logits over its classes.
        student_scale: the same of the student's logits, over the classes of the expert.
    """

    expert: str
    classes: int
    drawings: float = attrs.field(validator=_FRACTION)
    inversions: float | None = attrs.field(validator=_OPTIONAL)
    among_all: float | None = attrs.field(validator=_OPTIONAL)
    mean_logits: float | None = attrs.field(default=None, validator=_OPTIONAL)
    predicted: float = attrs.field(validator=_FRACTION)
    scale: float
    student_scale: float

    @property
    def share(self) -> float:
        """The share in the verdict."""
        return self.drawings if self.inversions is None else self.inversions

    @property
    def relative(self) -> float:
        """The share in the verdict beyond chance, from 0 to 1, where 1 is what the mean of the experts reaches.

        With s the share, m that of the mean, and k classes, it is (s - 1/k) / (m - 1/k). Few classes are easy to agree
        on, and nobody agrees with experts who contradict each other.
        """
        chance = 1 / self.classes if self.classes > 1 else 0.0
        reached = 1.0 if self.mean_logits is None else self.mean_logits
        return 1.0 if reached <= chance else min(1.0, max(0.0, (self.share - chance) / (reached - chance)))


@component
@attrs.frozen(kw_only=True)
class LabelShare:
    """How often a label is predicted.

    Args:
        label: its name, or the class id if it has none.
        student: share of all images with this prediction of the student.
        inversions: number of images that were optimized for the label, and that their expert gives this label.
        found: how many of these have it as the prediction of the student.
    """

    label: str
    student: float = attrs.field(validator=_FRACTION)
    inversions: int
    found: int

    @property
    def neglected(self) -> bool:
        """Whether the student never predicts it, although at least eight images show it to its expert."""
        return self.student == 0 and self.inversions >= FEWEST


@component
@attrs.frozen(kw_only=True)
class Agreement:
    """What :func:`agreement` measured.

    Args:
        experts: in the order of the stream.
        labels: of the student, by class id.
        ensemble: share of all images on which the student predicts what the mean of the experts' centered logits does.
        min_entropy: the same for the most certain expert.
        confidence: mean probability of the student's predictions.
        calibration_error: mean distance of this probability from the agreement with the ensemble, over ten equal
            intervals of probability, weighted by their images.
        images: number of images: drawings, and images optimized for each expert.
        verdict: one line.
        warning: why the experts themselves may be better than the student, and what to do: it never predicts a
            label, has lost an expert, or its agreement beyond chance is less than 80 % of that of the experts' mean.
            None otherwise.
    """

    experts: tuple[ExpertAgreement, ...]
    labels: tuple[LabelShare, ...]
    ensemble: float = attrs.field(validator=_FRACTION)
    min_entropy: float = attrs.field(validator=_FRACTION)
    confidence: float = attrs.field(validator=_FRACTION)
    calibration_error: float = attrs.field(validator=_FRACTION)
    images: int
    verdict: str
    warning: str | None = None

    @property
    def score(self) -> float:
        """The mean over the experts of the share in the verdict."""
        return sum(row.share for row in self.experts) / len(self.experts)

    @property
    def among_all(self) -> float:
        """The mean over the experts of ``among_all``, or of ``drawings`` for an expert without a gradient.

        Of two students of the same experts, it prefers the more accurate one more often than other figures do.
        """
        shares = [row.drawings if row.among_all is None else row.among_all for row in self.experts]
        return sum(shares) / len(shares)

    @property
    def relative(self) -> float:
        """The mean over the experts of :attr:`ExpertAgreement.relative`."""
        return sum(row.relative for row in self.experts) / len(self.experts)

    @property
    def scale_ratio(self) -> float:
        """Largest divided by smallest scale of the student's logits over the classes of an expert."""
        scales = [row.student_scale for row in self.experts if row.classes > 1]
        return max(scales, default=1.0) / max(min(scales, default=1.0), 1e-12)


def agreement(
    student: Expert, loads: Sequence[Callable[[], Expert]], *, seed: int = 0, images: int | None = None
) -> Agreement:
    """Compare a student with its experts on fresh images that nothing was trained on.

    The images are drawings that suit the experts (:meth:`exml.generators.ProceduralImages.resembling`), and images that
    are optimized for each expert from other drawings for a few steps. Each expert is loaded twice, and one expert is in
    memory at a time.

    Args:
        student: its classes include those of the experts.
        loads: one function per expert that loads it, with global class ids and in the student's image shape.
        seed: of the images, which differ from those of a training with the same seed.
        images: number of drawings; by default 64 to 512, less for larger images. A quarter as many are optimized for
            each expert, and fewer for more than twelve experts.

    Raises:
        StreamError: without an expert.
        ExpertError: an expert has another image shape or classes that the student lacks.

    >>> import exml, torch
    >>> from exml.runs import agreement
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    >>> student = exml.Expert(head, classes=(0, 1, 2), image_shape=(1, 8, 8))
    >>> agreement(student, [lambda: student]).verdict
    'The student agrees with its experts on 100 % of fresh images; no label is neglected.'
    """
    if not loads:
        raise StreamError(expected="at least one expert", got="none", remedy="give the experts of the student")
    count = inference_batch_size(student.image_shape) if images is None else images
    each = max(4, min(count // 4, 3 * count // len(loads)))
    channels, means, parts = student.image_shape[0], list[float](), list[Images]()
    for place, load in enumerate(loads):
        expert = load()
        means.append(expert.mean[0])
        start = ProceduralImages.resembling(channels, means[-1:])
        parts.append(_inverted(expert, start, each, derive_seed(seed, "agreement", place), student.device))
        del expert  # before the next one is loaded
    drawn = ProceduralImages.resembling(channels, means)
    parts.insert(0, drawn(student, count, derive_seed(seed, "agreement")).images)
    shown, owners = (
        torch.cat(parts),
        torch.arange(-1, len(loads)).repeat_interleave(torch.tensor(list(map(len, parts)))),
    )
    answers = [ExpertLogits.of(load(), shown, 1 + max(student.class_ids.tolist())) for load in loads]
    return _compared(ExpertLogits.of(student, shown, 1 + max(student.class_ids.tolist())), student, answers, owners)


def _inverted(expert: Expert, start: ProceduralImages, size: int, seed: int, device: torch.device) -> Images:
    """Images optimized for the classes of an expert; none if it has no gradient."""
    home = expert.device
    try:
        return attrs.evolve(_INVERTED, start=start)(expert.to(device), size, seed, _CONTEXT).images.clamp(0, 1)
    except (ExpertError, NonFiniteError):
        return torch.empty(0, *expert.image_shape, device=device)
    finally:
        expert.to(home)


def _compared(ours: ExpertLogits, student: Expert, experts: Sequence[ExpertLogits], owners: Labels) -> Agreement:
    """All figures, from logits alone; ``owners`` has the position of each image's expert, -1 for drawings."""
    predicted, names = ours.predicted, label_names(student)
    scores = EnsembleAverage("centered").combine(expert.full() for expert in experts)
    mean = scores.argmax(1)
    surest = MinEntropy().combine(expert.full() for expert in experts).argmax(1)
    rows: list[ExpertAgreement] = []
    wanted = torch.full_like(owners, -1)
    for place, expert in enumerate(experts):
        own, theirs, restricted = owners == place, expert.predicted, ours.among(expert.known)
        same = restricted.predicted == theirs
        reached = scores.masked_fill(~expert.known, -torch.inf).argmax(1) == theirs
        wanted[own] = theirs[own]
        rows.append(
            ExpertAgreement(
                expert=expert.name,
                classes=int(expert.known.sum()),
                drawings=_share(same[owners < 0]),
                inversions=_share(same[own]) if bool(own.any()) else None,
                among_all=_share((predicted == theirs)[own]) if bool(own.any()) else None,
                mean_logits=_share(reached[own if bool(own.any()) else owners < 0]),
                predicted=_share(expert.known[predicted]),
                scale=expert.scale,
                student_scale=restricted.scale,
            )
        )
    labels = tuple(
        LabelShare(
            label=names[label],
            student=_share(predicted == label),
            inversions=int((wanted == label).sum()),
            found=int(((wanted == label) & (predicted == label)).sum()),
        )
        for label in ours.known.nonzero().flatten().tolist()
    )
    confidence = ours.logits.softmax(1).amax(1)
    bins = (10 * confidence).long().clamp_max(9)
    gaps = torch.zeros(10).index_add(0, bins, confidence - (predicted == mean).float())
    found = Agreement(
        experts=tuple(rows),
        labels=labels,
        ensemble=_share(predicted == mean),
        min_entropy=_share(predicted == surest),
        confidence=float(confidence.mean()),
        calibration_error=min(1.0, float(gaps.abs().sum()) / len(owners)),
        images=len(owners),
        verdict="",
    )
    return attrs.evolve(found, verdict=_verdict(found), warning=_warning(found))


def _verdict(found: Agreement) -> str:
    neglected = [row.label for row in found.labels if row.neglected]
    labels = f"it neglects {_listed(neglected)}" if neglected else "no label is neglected"
    return f"The student agrees with its experts on {100 * found.score:.0f} % of fresh images; {labels}."


def _warning(found: Agreement) -> str | None:
    reasons: list[str] = []
    neglected = [row.label for row in found.labels if row.neglected]
    if neglected:
        reasons.append(f"it never predicts {_listed(neglected)}")
    best = max(row.relative for row in found.experts)
    lost = [row.expert for row in found.experts if row.relative < LOST * best or row.among_all == 0]
    if lost:
        reasons.append(f"it has lost most of {_listed(lost)}")
    if found.relative < LOW:
        share = f"{100 * found.relative:.0f} % of that of the experts' mean, below {100 * LOW:.0f} %"
        reasons.append(f"its agreement beyond chance is {share}")
    if not reasons:
        return None
    whole = next((row for row in found.experts if row.classes == len(found.labels)), None)
    alike = len(found.experts) > 1 and all(row.classes == len(found.labels) for row in found.experts)
    safer = ["average the experts' logits"] if alike else []  # those of unlike heads have no common scale
    safer += [] if whole is None else [f"keep {whole.expert!r}, which knows all labels"]
    advice = " or ".join(safer) or "compare them on labeled images"
    return f"The experts may be better than the student: {'; '.join(reasons)}. To be safe, {advice}."


def label_names(student: Expert, /) -> dict[int, str]:
    """The name of each class by id, ascending; the number of a class without a name."""
    return dict(sorted(zip(student.classes, student.labels or map(str, student.classes), strict=True)))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:3]))
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())


def agreement_table(found: Agreement, width: int = 80) -> Group:
    """The figures of :func:`agreement` in percent, one row per expert, with verdict and warning.

    Args:
        found: the figures.
        width: characters per line.
    """
    contradicted = any(row.mean_logits not in (None, 1) for row in found.experts)  # otherwise a column of 100s
    heads = ["classes", "all\nlabels", "its\nlabels", *["mean"] * contradicted, "draw-\nings", "pre-\ndicted"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, width=None)
    room = max(8, width - (63 if contradicted else 56))
    table.add_column("expert", max_width=room, no_wrap=True, overflow="ellipsis", vertical="bottom")
    for head in (*heads, "scale", "student"):
        table.add_column(head, justify="right", vertical="bottom", no_wrap=True)
    for row in found.experts:
        shares = [row.among_all, row.inversions, *[row.mean_logits] * contradicted, row.drawings, row.predicted]
        cells = ["-" if share is None else f"{100 * share:.1f}" for share in shares]
        table.add_row(
            Text(printable(row.expert)), str(row.classes), *cells, f"{row.scale:.1f}", f"{row.student_scale:.1f}"
        )
    return Group(Text("Agreement with the experts on fresh images, %", style="bold"), table, Text(), *_notes(found))


def _notes(found: Agreement) -> list[Text]:
    few = sorted(found.labels, key=lambda row: row.student)[:3]
    lines = [
        f"With the experts' mean logits: {100 * found.ensemble:.1f} %; with the most certain expert: "
        f"{100 * found.min_entropy:.1f} %.",
        f"Mean confidence: {100 * found.confidence:.1f} %; calibration error: {100 * found.calibration_error:.1f} %.",
        "Least predicted: " + ", ".join(f"{printable(row.label)} ({100 * row.student:.1f} %)" for row in few) + ".",
        found.verdict,
    ]
    warning = [] if found.warning is None else [Text(f"Warning: {found.warning}", style="bold")]
    return [*map(Text, lines), *warning]
