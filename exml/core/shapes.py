"""The shapes of tensors, each named once.

A dimension with the same name in two arguments of a call has the same size in both, as in jaxtyping; the tests check it
at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Images: TypeAlias = Float[Tensor, "batch channels height width"]
"""Images; outside an expert always in pixel units, where [0, 1] is the range of a photograph."""
Logits: TypeAlias = Float[Tensor, "batch classes"]
"""One row per image, one column per global class id."""
Labels: TypeAlias = Int[Tensor, " batch"]
"""Global class ids (or task labels, or experiences), int64."""
ClassMask: TypeAlias = Bool[Tensor, " classes"]
"""A set of classes: True for members."""
ClassCounts: TypeAlias = Bool[Tensor, " classes"] | Int[Tensor, " classes"]
"""A number for each class; a mask counts each of its members once."""
EntryMask: TypeAlias = Bool[Tensor, "batch classes"]
"""A set of classes for each image."""
Scalar: TypeAlias = Float[Tensor, ""]
"""A 0-dimensional tensor on the device; reading its value synchronizes with the device."""
State: TypeAlias = Mapping[str, Tensor]
"""Tensors by name: the state of unfinished work in a checkpoint."""
