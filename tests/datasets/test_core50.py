"""CORe50 in a made tree, with and without the published lists, and 90 real frames where they are at hand."""

import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from exml.core.errors import DataError
from exml.datasets import core50, core50_lists
from exml.datasets.image_folder import _write

THINGS, FRAMES = (1, 2, 6, 50), 3
TEST = (3, 7, 10)


def name_of(session: int, thing: int, frame: int) -> str:
    return f"C_{session:02}_{thing:02}_{frame:03}.png"


def colour_of(session: int, thing: int, frame: int) -> tuple[int, int, int]:
    return session * 20, thing * 5, frame * 20


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Four things in 11 sessions, three frames each; the colour says which frame it is."""
    root = tmp_path / "core50_128x128"
    for session in range(1, 12):
        for thing in THINGS:
            folder = root / f"s{session}" / f"o{thing}"
            folder.mkdir(parents=True)
            for frame in range(FRAMES):
                image = Image.new("RGB", (128, 128), colour_of(session, thing, frame))
                image.save(folder / name_of(session, thing, frame), compress_level=1)
    return root


def found_in(parts: dict[str, object] | object, part: str) -> list[tuple[int, int, int]]:
    """Session, thing and frame of each image, as its colour says."""
    samples = parts[part]  # type: ignore[index]
    corners = samples.images[:, :, 5, 7].tolist()
    assert all(int(image.max()) == max(corner) for image, corner in zip(samples.images, corners, strict=True))
    return [(red // 20, green // 5, blue // 20) for red, green, blue in corners]


def test_sessions_3_7_and_10_are_for_test_and_a_tenth_of_the_rest_is_held_out(tree: Path) -> None:
    parts = core50(tree)
    frames = {part: found_in(parts, part) for part in parts}
    everything = [(s, o, f) for s in range(1, 12) for o in THINGS for f in range(FRAMES)]
    assert frames["test"] == [frame for frame in everything if frame[0] in TEST]
    trained = [frame for frame in everything if frame[0] not in TEST]
    assert sorted(frames["train"] + frames["validation"]) == trained
    assert frames["train"] == sorted(frames["train"])
    counts = [sum(frame[1] == thing for frame in frames["validation"]) for thing in THINGS]
    assert counts == [8 * FRAMES // 10] * 4
    for part, found in frames.items():
        assert parts[part].labels.tolist() == [thing - 1 for _, thing, _ in found]
        assert parts[part].experiences.tolist() == [session for session, _, _ in found]
        assert parts[part].images.dtype == torch.uint8


def test_categories_have_five_things_each(tree: Path) -> None:
    things, categories = core50(tree), core50(tree, categories=True)
    for part in things:
        assert categories[part].labels.tolist() == [label // 5 for label in things[part].labels.tolist()]
    assert categories["test"].labels.unique().tolist() == [0, 1, 9]


def test_loose_frames_are_read_alike(tree: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    for file in tree.glob("*/*/*.png"):
        shutil.copy(file, loose)
    one, other = core50(tree), core50(loose)
    for part in one:
        assert torch.equal(one[part].images, other[part].images)
        assert torch.equal(one[part].labels, other[part].labels)


def test_a_part_is_no_copy(tree: Path) -> None:
    """Of 8 GB only what is looked at is loaded."""
    parts = core50(tree)
    assert len({part.images.untyped_storage().data_ptr() for part in parts.values()}) == 1


def test_files_are_read_once(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def counted(temporary: Path, **settings: object) -> None:
        calls.append(temporary)
        _write(temporary, **settings)  # type: ignore[arg-type]

    namespace = inspect.unwrap(core50).__globals__
    decoded = namespace["decoded"]
    monkeypatch.setitem(inspect.unwrap(decoded).__globals__, "_write", counted)
    first = core50(tree)["train"].images.clone()
    namespace["_parts"].cache_clear()
    assert torch.equal(core50(tree)["train"].images, first)
    assert len(calls) == 1
    [file] = (cache / "decoded").iterdir()
    namespace["_parts"].cache_clear()
    start = file.read_bytes()[:1000]
    file.unlink()
    file.write_bytes(start)  # cut short; and another file, since somebody may still look at the first one
    assert torch.equal(core50(tree)["train"].images, first)
    assert len(calls) == 2
    namespace["_parts"].cache_clear()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
    image.save(tree / "s1" / "o1" / name_of(1, 1, 0))  # another file is another size
    core50(tree)
    assert len(calls) == 3


def write_lists(place: Path, batches: list[list[tuple[int, int, int]]], test: list[tuple[int, int, int]]) -> None:
    """In the published form; the number after the path is that of the run and not the thing."""
    place.mkdir(parents=True)
    named = {f"train_batch_{number:02}": batch for number, batch in enumerate(batches)} | {"test": test}
    for name, frames in named.items():
        lines = [f"s{s}/o{o}/{name_of(s, o, f)} {THINGS[::-1].index(o)}" for s, o, f in frames]
        (place / f"{name}_filelist.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("beside", [True, False])
def test_lists_say_which_frames_come_when(tree: Path, beside: bool) -> None:
    trained = [(s, o, f) for s in range(1, 12) for o in THINGS for f in range(FRAMES) if s not in TEST]
    batches = [[frame for frame in trained if frame[1] in (6, 1)], [frame for frame in trained if frame[1] == 50]]
    test = [(3, 50, 1), (10, 1, 0)]
    place = (tree.parent if beside else tree) / "batches_filelists"
    write_lists(place / "NC_inc" / "run0", batches, test)
    write_lists(place / "NI_inc" / "run3", [trained], test)
    assert core50_lists(tree) == ("NC_inc/run0", "NI_inc/run3")
    parts = core50(tree, lists="NC_inc/run0")
    both = [*zip(*(found_in(parts, part) for part in ("train", "validation")), strict=False)]
    assert both
    whole = core50(tree)
    for part in ("train", "validation"):
        expected = [frame for frame in found_in(whole, part) if frame[1] != 2]
        assert found_in(parts, part) == expected
        assert parts[part].experiences.tolist() == [2 if thing == 50 else 1 for _, thing, _ in expected]
        assert parts[part].labels.tolist() == [thing - 1 for _, thing, _ in expected]
    assert found_in(parts, "test") == test
    assert parts["test"].experiences.tolist() == [0, 0]
    everything = core50(tree, lists="NI_inc/run3")["train"]
    assert set(everything.experiences.tolist()) == {1}
    assert torch.equal(everything.images, whole["train"].images)


@pytest.mark.parametrize(
    ("batches", "test", "match"),
    [
        ([[(1, 1, 99)]], [(3, 1, 0)], r"train_batch_00_filelist.txt.*C_01_01_099.png"),
        ([[(1, 1, 0)], [(3, 1, 1)]], [(3, 1, 0)], r"train_batch_01_filelist.txt.*C_03_01_001"),
        ([[(1, 1, 0)]], [(1, 1, 1)], r"test_filelist.txt.*C_01_01_001"),
        ([], [(3, 1, 0)], r"train_batch_NN_filelist.txt in batches_filelists/X/run0"),
    ],
)
def test_lists_that_do_not_fit_the_frames_are_typed_errors(
    tree: Path, batches: list[list[tuple[int, int, int]]], test: list[tuple[int, int, int]], match: str
) -> None:
    write_lists(tree.parent / "batches_filelists" / "X" / "run0", batches, test)
    with pytest.raises(DataError, match=match):
        core50(tree, lists="X/run0")


def test_missing_and_unreadable_lists_are_typed_errors(tree: Path) -> None:
    assert core50_lists(tree) == ()
    with pytest.raises(DataError, match="core50_lists"):
        core50(tree, lists="NI_inc/run0")
    place = tree.parent / "batches_filelists" / "NI_inc" / "run0"
    write_lists(place, [[(1, 1, 0)]], [])
    (place / "test_filelist.txt").unlink()
    with pytest.raises(DataError, match=r"test_filelist\.txt"):
        core50(tree, lists="NI_inc/run0")
    (place / "test_filelist.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"test_filelist\.txt"):
        core50(tree, lists="NI_inc/run0")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "size"])
def test_a_broken_frame_is_named(tree: Path, cache: Path, damage: str) -> None:
    path = tree / "s4" / "o6" / name_of(4, 6, 2)
    if damage == "size":
        Image.new("RGB", (350, 350)).save(path)
    else:
        # A grey noise, since a PNG of one colour has nothing that could be cut off.
        noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes({"cut": path.read_bytes()[:20_000], "empty": b"", "text": b"no image"}[damage])
    with pytest.raises(DataError, match=r"s4/o6/C_04_06_002\.png") as caught:
        core50(tree)
    assert caught.value.got == "350x350" if damage == "size" else caught.value.got
    assert list((cache / "decoded").iterdir()) == []


@pytest.mark.parametrize("layout", ["absent", "empty", "others"])
def test_a_folder_without_frames_is_a_typed_error(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "frames"
    if layout != "absent":
        path.mkdir()
    if layout == "others":
        for name in ("C_01_51_000.png", "C_01_00_000.png", "D_01_01_000.png", "C_1_1_0.png"):
            Image.new("RGB", (128, 128)).save(path / name)
    with pytest.raises(DataError, match="EXML_DATA") as caught:
        core50(path)
    assert caught.value.got == ("no such folder" if layout == "absent" else "none")


def test_the_real_frames_are_what_pillow_reads(exml_data: Path) -> None:
    path = exml_data / "core50_sample"
    parts = core50(path)
    names = sorted(file.name for file in path.iterdir())
    assert sum(map(len, parts.values())) == len(names) == 90
    for part in ("train", "test"):
        own = [name for name in names if (int(name[2:4]) in TEST) == (part == "test")]
        wanted = np.stack([np.asarray(Image.open(path / name).convert("RGB")) for name in own])
        np.testing.assert_array_equal(parts[part].images.numpy(), wanted.transpose(0, 3, 1, 2))
        assert parts[part].labels.tolist() == [int(name[5:7]) - 1 for name in own]
        assert parts[part].experiences.tolist() == [int(name[2:4]) for name in own]
    assert len(parts["validation"]) == 0
