"""What is held out: equally many images of each class, the same ones for ever."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exml.core.errors import DataError
from exml.core.samples import Samples
from exml.datasets import dataset_folder, hold_out


def numbered(labels: list[int]) -> Samples:
    """Each image's first pixel is its place."""
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(labels))
    return Samples.of(images, torch.tensor(labels, dtype=torch.int64))


@given(labels=st.lists(st.integers(0, 3), max_size=60), per_class=st.integers(0, 5), name=st.text(max_size=4))
def test_every_image_is_in_one_part(labels: list[int], per_class: int, name: str) -> None:
    samples = numbered(labels)
    if any(labels.count(label) <= per_class for label in labels):
        with pytest.raises(DataError, match=f"more than {per_class} training images"):
            hold_out(samples, per_class, name)
        return
    train, validation = hold_out(samples, per_class, name)
    places = [part.images[:, 0, 0, 0].tolist() for part in (train, validation)]
    assert sorted(places[0] + places[1]) == list(range(len(labels)))
    assert all(part == sorted(part) for part in places)
    assert [labels[place] for place in places[1]] == validation.labels.tolist()
    assert all(validation.labels.tolist().count(label) == per_class for label in set(labels))


def test_what_is_held_out_depends_on_the_name_and_is_fixed_for_ever() -> None:
    samples = numbered([0] * 30 + [1] * 30)
    found = {name: hold_out(samples, 3, name)[1].images[:, 0, 0, 0].tolist() for name in ("mnist", "cifar10")}
    assert found == {"mnist": [11, 12, 23, 32, 48, 56], "cifar10": [7, 24, 25, 43, 54, 56]}


def test_the_folder_is_the_one_that_is_named(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXML_DATA", str(tmp_path / "here"))
    assert dataset_folder() == tmp_path / "here"
    monkeypatch.delenv("EXML_DATA")
    assert dataset_folder() == cache
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dataset_folder() == tmp_path / ".cache" / "exml"
