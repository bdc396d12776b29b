"""Folders of experts, which are pairs of files."""

from __future__ import annotations

import re
from pathlib import Path

from exml.core.errors import ExpertError, StreamError
from exml.experts.card import ExpertCard, read_card


def read_cards(folder: Path | str, /) -> dict[str, ExpertCard]:
    """All cards of a folder by the name of their file, in the order of the stream. The weights are not touched.

    The order is that of the field ``order`` if the cards have one, else that of the names, with 2 before 10.

    Raises:
        StreamError: when the folder is missing or empty, or the order is contradictory.
        ExpertError: when a card is faulty, or one file of a pair is missing.
    """
    folder = Path(folder)
    cards = {path.stem for path in folder.glob("*.json")}
    weights = {path.stem for path in folder.glob("*.safetensors")}
    if not cards and not weights:
        raise StreamError(
            expected=f"experts (NAME.safetensors and NAME.json) in {folder}",
            got="an empty folder" if folder.is_dir() else "no such folder",
            remedy="check the path; exml.experts.save_expert writes an expert",
        )
    for alone, other in ((cards - weights, "safetensors"), (weights - cards, "json")):
        if alone:
            raise ExpertError(
                expected=f"{folder / min(alone)}.{other}",
                got="no such file",
                remedy="an expert is a pair of files: add the missing file, or move the other one away",
            )
    found = {name: read_card(folder / f"{name}.json") for name in sorted(cards, key=natural)}
    orders = {name: card.order for name, card in found.items()}
    given = [order for order in orders.values() if order is not None]
    if given and len(set(given)) < len(orders):
        raise StreamError(
            expected=f"a different order on every card in {folder}, or none on any",
            got=str(orders),
            remedy="correct the cards",
        )
    return {name: found[name] for name in sorted(found, key=lambda name: orders[name] or 0)}


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``expert-2`` before ``expert-10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
