"""exml evaluate: how good a student is, on labeled images or without data."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import Parameter

from exml import runs
from exml.cli.arguments import PRINTING, Flag, Printing, Whole
from exml.core.errors import SettingError
from exml.core.files import write_json
from exml.core.serialization import to_plain
from exml.runs.environment import device_of
from exml.runs.learn import load_plan
from exml.runs.record import PLAN


@Parameter(name="*")
@attrs.frozen
class EvaluateOptions:
    """How a student is evaluated.

    Args:
        ignore_unknown: Leave out images with labels that the student does not know, instead of an error.
        seed: Of the drawings.
        device: As torch names it; 'auto' is an accelerator if there is one.
    """

    ignore_unknown: Flag = False
    seed: Whole = 0
    device: str = "cpu"


OPTIONS = EvaluateOptions()


def evaluate(
    student: Annotated[Path, Parameter(allow_leading_hyphen=False)],
    /,
    *,
    images: Path | None = None,
    experts: Path | None = None,
    out: Path | None = None,
    options: EvaluateOptions = OPTIONS,
    trust: Flag = False,
    printing: Printing = PRINTING,
) -> None:
    """Print the accuracy of a student on labeled images, with that of its experts and their ensembles.

    Without --images, compare the student with its experts on drawings and optimized images, which needs no data.

    Args:
        student: Folder that 'exml learn' wrote, or the path of a classifier.
        images: Folder with one subfolder per label, or a CSV file with the columns path and label. Images may have any
            size.
        experts: Folder of experts, in any format.
        out: Folder for assessment.json and confusion.png, or for agreement.json.
        trust: Accept classifiers whose loading executes code.
    """
    if images is None and experts is None:
        expected, remedy = "--images, --experts or both", "name labeled images, or the experts of the student"
        raise SettingError(expected=expected, got="neither", remedy=remedy)
    place, known = device_of(options.device), runs.Student.load(student, trust=trust)
    model = known.expert.to(place)
    plan = load_plan(student / PLAN) if (student / PLAN).is_file() else None
    loads = [] if experts is None else runs.expert_loads(model, experts, plan, trust=trust)
    console = printing.console
    if images is None:
        report = runs.agreement(model, loads, seed=options.seed)
        shown = runs.agreement_table(report, console.width)
        name, figure = "agreement.json", None
    else:
        report = attrs.evolve(known, expert=model).evaluate(images, loads, ignore_unknown=options.ignore_unknown)
        shown = runs.assessment_table(report, console.width)
        name, figure = "assessment.json", partial(runs.confusion_figure, report)
    printing.show(to_plain(report), shown)
    if out is not None:
        write_json(out / name, to_plain(report))
        if figure is not None:
            runs.save_figure(figure(), out / "confusion.png")
        console.print(f"Everything is in {out}.", markup=False, soft_wrap=True)
