"""Appendix B as data: one row a data set and a method, as the paper prints them.

Two rows are printed oddly. B.1 calls the settings of MNIST's distillation ``buffer_lr``, ``buffer_iter``,
``buffer_mb_size`` and ``buffer_temperature``; they stand under "Knowledge Distillation hyperparameters" and so they are
read. The *KD temperature* of every distillation is that of a loss that Eqs. 9 and 10 do not have: nothing reads it. (In
B.1.1 the words stand for the temperature of the softmax that is inverted.) CORe50's first table has a β, which model
inversion has no use for.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

import attrs

from exml.augmentation import Augmentation
from exml.core.errors import SettingError
from exml.experts import ExpertProfile

Dataset: TypeAlias = Literal["mnist", "cifar10", "core50"]
Method: TypeAlias = Literal["model-inversion", "data-impression"]

PAPER_STRATEGIES: Mapping[str, str] = MappingProxyType(
    {
        "model-inversion": "Model Inversion ED",
        "data-impression": "Data Impression ED",
        "auxiliary": "Aux. Data ED",
        "replay": "Replay ED",
        "noise": "Gaussian-noise ED",
    }
)
"""The sources of images of Secs. 4 and 5 with their titles in the tables; only the paper's code has noise."""
BUFFER = 5_000
"""N, "for all the experiments"."""


@attrs.frozen
class DistillationRow:
    """A data set's "Knowledge Distillation hyperparameters"."""

    learning_rate: float
    iterations: int
    batch_size: int


@attrs.frozen
class GenerationRow:
    """A method's "Data generation hyperparameters"; beta is read by data impression alone."""

    learning_rate: float
    iterations: int
    batch_size: int
    blur: float
    batch_norm: float
    weight_decay: float
    temperature: float
    beta: float = 1.0


@attrs.frozen
class AuxiliaryRow:
    """What stands in for the data (Sec. 5): its name and size in pixels.

    The code does not subsample it; ``images`` is how many of it a buffer holds then. ImageNet's million would fill a
    computer's memory as they are kept there, so it is as many as everywhere else.
    """

    name: Literal["fashion-mnist", "imagenet"]
    size: int
    images: int


DISTILLATION: dict[Dataset, DistillationRow] = {
    "mnist": DistillationRow(learning_rate=0.01, iterations=30_000, batch_size=32),
    "cifar10": DistillationRow(learning_rate=0.1, iterations=50_000, batch_size=32),
    "core50": DistillationRow(learning_rate=0.001, iterations=20_000, batch_size=10),
}
# MNIST's mini-batch of the generation is not printed. A LeNet-5 has no batch norm, so nothing couples its images.
GENERATION: dict[tuple[Dataset, Method], GenerationRow] = {
    ("mnist", "model-inversion"): GenerationRow(0.01, 3_000, 512, 0.001, 1.0, 0.001, temperature=2.0),
    ("mnist", "data-impression"): GenerationRow(0.01, 3_000, 512, 0.001, 1.0, 0.001, temperature=20.0, beta=10.0),
    ("cifar10", "model-inversion"): GenerationRow(0.1, 500, 1_024, 0.01, 0.0, 0.0001, temperature=2.0),
    ("cifar10", "data-impression"): GenerationRow(0.1, 500, 1_024, 0.01, 0.0, 0.0001, temperature=2.0, beta=10.0),
    ("core50", "model-inversion"): GenerationRow(0.1, 500, 128, 0.001, 10.0, 0.0001, temperature=2.0),
    ("core50", "data-impression"): GenerationRow(0.1, 500, 128, 0.001, 10.0, 0.0001, temperature=2.0, beta=0.1),
}
_COLOR: dict[tuple[int, int, int], Dataset] = {(3, 32, 32): "cifar10", (3, 128, 128): "core50"}
STOP_AT: dict[Dataset, float | None] = {"mnist": 0.99, "cifar10": None, "core50": None}
"""With which probability of its class an image is finished: Sec. 5.1 says so of Fig. 2, which shows MNIST's."""
AUXILIARY: dict[Dataset, AuxiliaryRow] = {
    "mnist": AuxiliaryRow("fashion-mnist", size=32, images=60_000),
    "cifar10": AuxiliaryRow("imagenet", size=32, images=5_000),
    "core50": AuxiliaryRow("imagenet", size=128, images=5_000),
}
# Sec. 4.1: "depending on the dataset, small displacements, rotations, and horizontal flip". Neither the sizes nor what
# comes in from beyond the border are in the text; the sizes are the code's.
AUGMENTATION: dict[Dataset, Augmentation] = {
    "mnist": Augmentation(shift=4),
    "cifar10": Augmentation(shift=2, rotation=15.0, flip=0.5),
    "core50": Augmentation(shift=4, rotation=15.0, flip=0.5),
}

# What the code does, as far as it can be said in our fields: its random resized crops of 80 to 100 % of CIFAR10 change
# the ratio of the sides too, and of ImageNet it takes another crop every time. What comes in from beyond the border has
# the value 0 in normalised units.
CODE_AUGMENTATION: dict[Dataset, Augmentation] = {
    "mnist": Augmentation(shift=4, padding="zeros"),
    "cifar10": Augmentation(shift=2, rotation=15.0, flip=0.5, scale=0.1, padding="zeros"),
    "core50": Augmentation(shift=4, rotation=15.0, flip=0.5, padding="zeros"),
}
CODE_AUXILIARY: dict[Dataset, Augmentation | None] = {
    "mnist": None,
    "cifar10": Augmentation(flip=0.5),
    "core50": Augmentation(flip=0.5),
}
# These are the augmentations that the experts were trained with: before the images are normalised, 0 is black.
CODE_REPLAY: dict[Dataset, Augmentation | None] = {
    "mnist": None,
    "cifar10": Augmentation(shift=4, flip=0.5, padding="zeros"),
    "core50": Augmentation(shift=1, rotation=15.0, flip=0.5, padding="zeros"),
}
MEAN: dict[Dataset, tuple[float, ...]] = {
    "mnist": (0.1,),
    "cifar10": (0.4912, 0.4819, 0.4463),
    "core50": (0.485, 0.456, 0.406),
}
"""With which the experts of our scenarios normalise: MNIST's with its two black pixels more on each side."""
MULTI_TASK_BATCH = 128
"""Of the configurations that are published, all of CIFAR10-MT; appendix B says 32."""


def row_of(profile: ExpertProfile, dataset: str | None) -> Dataset:
    """The rows of appendix B for a stream: those of ``dataset``, or of the dataset that has images of this shape.

    Raises:
        SettingError: when the paper has no images of this shape, or no such dataset.
    """
    rows: dict[str, Dataset] = {row: row for row in DISTILLATION}
    if dataset in rows:
        return rows[dataset]
    channels, height, width = profile.image_shape
    if dataset is None and channels == 1:
        return "mnist"
    if dataset is None and (channels, height, width) in _COLOR:
        return _COLOR[channels, height, width]
    raise SettingError(
        expected="images 1xHxW (the rows of MNIST), 3x32x32 (CIFAR-10) or 3x128x128 (CORe50)",
        got=f"{channels}x{height}x{width}" + ("" if dataset is None else f" and dataset={dataset!r}"),
        remedy=f"pass dataset={' or '.join(map(repr, rows))}, or choose a recipe that fits every stream",
    )


def method_of(strategy: str) -> Method | None:
    """The method of a strategy that optimizes pixels; None for a strategy that does not.

    Raises:
        SettingError: for a strategy that the paper does not have.
    """
    if strategy not in PAPER_STRATEGIES:
        raise SettingError(
            expected=f"one of {', '.join(PAPER_STRATEGIES)}", got=repr(strategy), remedy="choose one of them"
        )
    methods: dict[str, Method] = {"model-inversion": "model-inversion", "data-impression": "data-impression"}
    return methods.get(strategy)
