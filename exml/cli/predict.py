"""exml predict: the labels of images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from exml.cli.arguments import Flag, Whole
from exml.core.errors import DataError, printable
from exml.datasets import image_files
from exml.experts import load
from exml.runs import Student


def predict(
    student: Annotated[Path, Parameter(allow_leading_hyphen=False)],
    *images: Annotated[Path, Parameter(allow_leading_hyphen=False)],
    top: Whole = 1,
    json_lines: Annotated[bool, Parameter(name="--json", show_default=False)] = False,
    trust: Flag = False,
) -> int:
    """Print the label of each image with its probability, one line per image.

    An image that cannot be read is named, the others are predicted, and the exit code is 1.

    Args:
        student: Folder that 'exml learn' wrote, or the path of a classifier.
        images: Files, and folders whose PNG and JPEG files are read, also those in their folders.
        top: Number of labels per image.
        json_lines: Print one JSON object per line instead: {"image": ..., "labels": {"dog": 0.93, ...}}.
        trust: Accept classifiers whose loading executes code.
    """
    model, failed = Student(load(student, trust=trust)), False
    for path in [file for image in images for file in (image_files(image) if image.is_dir() else [image])]:
        try:
            found = model.predict(path, top=top)
        except DataError as error:
            sys.stderr.write(f"exml: {error}\n")
            failed = True
            continue
        assert isinstance(found, dict)
        if json_lines:
            line = json.dumps({"image": str(path), "labels": found})
        else:
            line = "  ".join([printable(str(path)), *(f"{printable(label)} {found[label]:.3f}" for label in found)])
        sys.stdout.write(line + "\n")
    return 1 if failed else 0
