"""Targets: what a teacher who knows nothing says."""

from __future__ import annotations

import attrs
import pytest
import torch

from exml.core.targets import Target, TeacherLogits


def test_nobody_knows_no_class_and_has_no_unit() -> None:
    like = torch.full((3, 4), float("nan"), dtype=torch.float64)
    nobody = TeacherLogits.none(like)
    assert torch.equal(nobody.logits, torch.zeros(3, 4, dtype=torch.float64))
    assert not nobody.known.any()
    assert not nobody.present.any()
    assert nobody.known.shape == nobody.present.shape == (4,)


def test_they_are_immutable_and_compare_by_identity() -> None:
    logits, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    target = Target(logits, mask, mask)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        target.logits = logits  # type: ignore[misc]
    assert target != Target(logits, mask, mask)  # tensors have no one truth value
