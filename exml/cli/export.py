"""exml export: a classifier as one file for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from exml.cli.arguments import Flag
from exml.experts import load
from exml.runs import Student


def export(
    student: Annotated[Path, Parameter(allow_leading_hyphen=False)],
    /,
    *,
    format: Literal["onnx", "pt2"] = "onnx",
    out: Path | None = None,
    trust: Flag = False,
    quiet: Flag = False,
) -> None:
    """Write a student, or any classifier that exml reads, as one file that needs no exml.

    The file takes images of any size with values from 0 to 1, and resizes and normalizes them itself. Its metadata have
    the labels. It is written only if it computes the same logits.

    Args:
        student: Folder that 'exml learn' wrote, or the path of a classifier.
        format: onnx for ONNX Runtime and others (needs exml[onnx]), or pt2 for torch.export.load.
        out: Path of the file; by default model.FORMAT in the student's folder, or in the folder of the classifier.
        trust: Accept classifiers whose loading executes code.
        quiet: Print only errors.
    """
    folder = student if student.is_dir() else student.parent
    path = Student(load(student, trust=trust)).export(out or folder / f"model.{format}", format=format)
    Console(quiet=quiet, highlight=False).print(f"Wrote {path}.", markup=False, soft_wrap=True)
