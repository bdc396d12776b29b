"""CORe50: videos of 50 objects from 10 categories in 11 sessions, 164,866 frames (Lomonaco and Maltoni 2017)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import attrs
import torch

from exml.core.errors import DataError
from exml.core.samples import Samples
from exml.datasets._common import dataset_folder, held_out
from exml.datasets.image_folder import decoded

SIZE = 128
"""Height and width of a frame."""
TEST_SESSIONS = (3, 7, 10)
"""The published protocol; the other eight sessions are for training."""
VALIDATION = 80
"""Training frames of each class that no expert is trained on; a tenth if a class has fewer than 800 frames."""
_FRAME = re.compile(r"C_(\d\d)_(\d\d)_(\d+)\.png")
_BATCH = re.compile(r"train_batch_(\d+)_filelist\.txt")


@attrs.frozen(order=True)
class _Frame:
    session: int
    thing: int
    number: int
    name: str = attrs.field(order=False)


def core50(
    path: Path | str | None = None, *, lists: str | None = None, categories: bool = False
) -> Mapping[str, Samples]:
    """The parts ``train``, ``validation`` and ``test`` of CORe50, 3x128x128 uint8.

    The test part has sessions 3, 7 and 10. The samples' ``experiences`` are the session, or the number of the training
    list, from 1, and 0 for the test list. Frames are in the order of session, object and time, and the classes of the
    validation part are equally frequent. The first call takes some minutes to decode all files into one memory-mapped
    file of 8 GB in the user's cache.

    Args:
        path: the folder ``core50_128x128`` as published, ``sN/oM/C_SS_OO_FFF.png`` with session SS and object OO from
            1, or a folder of such frames without subfolders; by default that name in :func:`dataset_folder`.
        lists: a folder of the published lists ``train_batch_NN_filelist.txt`` and ``test_filelist.txt``, such as
            ``"NC_inc/run0"``, below ``batches_filelists`` in ``path`` or next to it. The lists select the frames and
            their order; the class is in the frame's name.
        categories: whether the classes are the 10 categories rather than the 50 objects.

    Raises:
        DataError: without frames, or naming the file that is missing, broken, of another size or not a list.
        CheckpointError: when the cache cannot be written.
    """
    return _parts(_folder(path), lists, categories)


def core50_lists(path: Path | str | None = None) -> tuple[str, ...]:
    """The published lists in or next to the folder ``path`` of :func:`core50`, sorted, as its ``lists`` takes them."""
    places = _places(_folder(path))
    files = [(place, file) for place in places for file in place.glob("*/*/test_filelist.txt")]
    return tuple(sorted({file.parent.relative_to(place).as_posix() for place, file in files}))


def _folder(path: Path | str | None) -> Path:
    return dataset_folder() / "core50_128x128" if path is None else Path(path)


@lru_cache(maxsize=1)
def _parts(folder: Path, lists: str | None, categories: bool) -> Mapping[str, Samples]:
    frames = _frames(folder)
    trained = [frame for frame in frames if frame.session not in TEST_SESSIONS]
    things = torch.tensor([frame.thing for frame in trained], dtype=torch.int64)
    count = int(things.unique(return_counts=True)[1].min()) if trained else 0
    mask: list[bool] = held_out(things, min(VALIDATION, count // 10), "core50").tolist()
    parts = {
        "train": [frame for frame, held in zip(trained, mask, strict=True) if not held],
        "validation": [frame for frame, held in zip(trained, mask, strict=True) if held],
        "test": [frame for frame in frames if frame.session in TEST_SESSIONS],
    }
    # The cache has this order, so that each part is a slice of it, without a copy.
    images = decoded(folder, [frame.name for part in parts.values() for frame in part], SIZE, fit=False)
    batches = None if lists is None else _read_lists(folder, lists, frames)
    found: dict[str, Samples] = {}
    first = 0
    for name, part in parts.items():
        labels = torch.tensor([frame.thing - 1 for frame in part], dtype=torch.int64)
        samples = Samples.of(images[first : first + len(part)], labels // 5 if categories else labels)
        numbers = [frame.session for frame in part]
        if batches is not None:
            numbers = [batches.get((name == "test", frame.name.split("/")[-1]), -1) for frame in part]
        samples = attrs.evolve(samples, experiences=torch.tensor(numbers, dtype=torch.int64))
        listed = samples.experiences >= 0
        found[name] = samples if bool(listed.all()) else samples[listed]
        first += len(part)
    return MappingProxyType(found)


def _frames(folder: Path) -> list[_Frame]:
    files = [*folder.glob("s*/o*/*.png")] or [*folder.glob("*.png")]
    frames: list[_Frame] = []
    for file in files:
        match = _FRAME.fullmatch(file.name)
        if match is not None and 1 <= int(match[2]) <= 50:
            frames.append(_Frame(int(match[1]), int(match[2]), int(match[3]), file.relative_to(folder).as_posix()))
    if not frames:
        expected = f"frames sN/oM/C_SS_OO_FFF.png of CORe50 in {folder}"
        got = "none" if folder.is_dir() else "no such folder"
        remedy = "unpack the published core50_128x128.zip there, or set EXML_DATA to the folder that holds it"
        raise DataError(expected=expected, got=got, remedy=remedy)
    return sorted(frames)


def _read_lists(folder: Path, lists: str, frames: list[_Frame]) -> dict[tuple[bool, str], int]:
    """The number of each frame's list, from 1, and 0 for the test list; keys are (in the test list, name)."""
    place = next((place / lists for place in _places(folder) if (place / lists).is_dir()), None)
    files = [] if place is None else sorted(file for file in place.iterdir() if _BATCH.fullmatch(file.name))
    if place is None or not files:
        expected = f"train_batch_NN_filelist.txt in batches_filelists/{lists}, in {folder} or next to it"
        remedy = "unpack the published batches_filelists.zip there; core50_lists returns those that are there"
        raise DataError(expected=expected, got="none", remedy=remedy)
    sessions = {frame.name.split("/")[-1]: frame.session for frame in frames}
    found: dict[tuple[bool, str], int] = {}
    for number, file in enumerate([place / "test_filelist.txt", *files]):
        try:
            lines = file.read_text(encoding="ascii").split("\n")
        except (OSError, ValueError) as error:
            expected, remedy = f"a list of frames in {file}", "unpack the published lists again"
            raise DataError(expected=expected, got=str(error), remedy=remedy) from error
        for line in filter(None, map(str.strip, lines)):
            name = line.split()[0].split("/")[-1]
            if name not in sessions or (sessions[name] in TEST_SESSIONS) != (number == 0):
                expected = f"frames of {folder}, for the test only those of sessions 3, 7 and 10, in {file}"
                raise DataError(expected=expected, got=repr(line), remedy="unpack the published frames and lists again")
            found[number == 0, name] = number
    return found


def _places(folder: Path) -> tuple[Path, Path]:
    return folder / "batches_filelists", folder.parent / "batches_filelists"
