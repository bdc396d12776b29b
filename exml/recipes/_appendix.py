"""Appendix B as data: the settings of one dataset in one object, as the paper prints them.

Two rows are printed oddly. B.1 calls the settings of MNIST's distillation ``buffer_lr``, ``buffer_iter``,
``buffer_mb_size`` and ``buffer_temperature``; they stand under "Knowledge Distillation hyperparameters" and are read as
such. The *KD temperature* of every distillation belongs to a loss that Eqs. 9 and 10 do not have: nothing reads it. (In
B.1.1 it is the temperature of the softmax that is inverted.) CORe50's first table has a β, which model inversion does
not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import attrs

from exml.augmentation import Augmentation
from exml.core.errors import SettingError
from exml.experts import ExpertProfile

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
MULTI_TASK_BATCH = 128
"""In all configurations of CIFAR10-MT that are published; appendix B says 32."""


@attrs.frozen
class Generation:
    """A method's "Data generation hyperparameters"; only data impression reads beta."""

    learning_rate: float
    iterations: int
    batch_size: int
    blur: float
    batch_norm: float
    weight_decay: float
    temperature: float
    beta: float = 1.0


@attrs.frozen(kw_only=True)
class Rows:
    """The settings of a dataset; those that begin with ``code`` are in the published code and not in the text.

    Args:
        learning_rate: of the distillation, like the next two.
        iterations: steps per experience.
        batch_size: images per step.
        generation: by strategy.
        stop_at: the probability of its class at which an image is finished. Sec. 5.1 says so of Fig. 2, which shows
            MNIST's.
        auxiliary: the dataset that stands in for the data (Sec. 5).
        code_auxiliary_images: the buffer's size for it. The code does not subsample the dataset; but ImageNet's million
            would fill the memory, so it is as large as elsewhere.
        augmentation: "depending on the dataset, small displacements, rotations, and horizontal flip" (Sec. 4.1). The
            sizes are the code's.
        code_augmentation: pads with the value 0 in normalized units. The code's random resized crops, which change the
            aspect ratio too, are approximated by a scale.
        code_auxiliary: augmentation of auxiliary images. Of ImageNet, the code takes another crop every time.
        code_replay: augmentation of replayed images, that of the experts' training: 0 is black.
        mean: of each channel, by which the experts of our scenarios normalize.
    """

    learning_rate: float
    iterations: int
    batch_size: int
    generation: Mapping[str, Generation]
    stop_at: float | None = None
    auxiliary: Literal["fashion-mnist", "imagenet"] = "imagenet"
    code_auxiliary_images: int = BUFFER
    augmentation: Augmentation
    code_augmentation: Augmentation
    code_auxiliary: Augmentation | None
    code_replay: Augmentation | None
    mean: tuple[float, ...]


ROWS: Mapping[str, Rows] = {
    "mnist": Rows(
        learning_rate=0.01,
        iterations=30_000,
        batch_size=32,
        generation={  # the mini-batch is not printed; a LeNet-5 has no batch norm that would couple its images
            "model-inversion": Generation(0.01, 3_000, 512, 0.001, 1.0, 0.001, temperature=2.0),
            "data-impression": Generation(0.01, 3_000, 512, 0.001, 1.0, 0.001, temperature=20.0, beta=10.0),
        },
        stop_at=0.99,
        auxiliary="fashion-mnist",
        code_auxiliary_images=60_000,
        augmentation=Augmentation(shift=4),
        code_augmentation=Augmentation(shift=4, padding="zeros"),
        code_auxiliary=None,
        code_replay=None,
        mean=(0.1,),
    ),
    "cifar10": Rows(
        learning_rate=0.1,
        iterations=50_000,
        batch_size=32,
        generation={
            "model-inversion": Generation(0.1, 500, 1_024, 0.01, 0.0, 0.0001, temperature=2.0),
            "data-impression": Generation(0.1, 500, 1_024, 0.01, 0.0, 0.0001, temperature=2.0, beta=10.0),
        },
        augmentation=Augmentation(shift=2, rotation=15.0, flip=0.5),
        code_augmentation=Augmentation(shift=2, rotation=15.0, flip=0.5, scale=0.1, padding="zeros"),
        code_auxiliary=Augmentation(flip=0.5),
        code_replay=Augmentation(shift=4, flip=0.5, padding="zeros"),
        mean=(0.4912, 0.4819, 0.4463),
    ),
    "core50": Rows(
        learning_rate=0.001,
        iterations=20_000,
        batch_size=10,
        generation={
            "model-inversion": Generation(0.1, 500, 128, 0.001, 10.0, 0.0001, temperature=2.0),
            "data-impression": Generation(0.1, 500, 128, 0.001, 10.0, 0.0001, temperature=2.0, beta=0.1),
        },
        augmentation=Augmentation(shift=4, rotation=15.0, flip=0.5),
        code_augmentation=Augmentation(shift=4, rotation=15.0, flip=0.5, padding="zeros"),
        code_auxiliary=Augmentation(flip=0.5),
        code_replay=Augmentation(shift=1, rotation=15.0, flip=0.5, padding="zeros"),
        mean=(0.485, 0.456, 0.406),
    ),
}


def rows_for(profile: ExpertProfile, dataset: str | None) -> Rows:
    """The rows of ``dataset``, or of the dataset that has images of the experts' shape.

    Raises:
        SettingError: when the paper has no images of this shape, or no such dataset.
    """
    shape = profile.image_shape
    color = {(3, 32, 32): "cifar10", (3, 128, 128): "core50"}
    found = dataset or ("mnist" if shape[0] == 1 else color.get(shape, ""))
    if found not in ROWS:
        raise SettingError(
            expected="images 1xHxW (the rows of MNIST), 3x32x32 (CIFAR-10) or 3x128x128 (CORe50)",
            got="x".join(map(str, shape)) + ("" if dataset is None else f" and dataset={dataset!r}"),
            remedy=f"pass dataset={' or '.join(map(repr, ROWS))}, or choose a recipe that fits every stream",
        )
    return ROWS[found]
