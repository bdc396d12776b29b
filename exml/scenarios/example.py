"""Three unlike classifiers of handwritten digits, to try things with: no download, a few seconds of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import nn
from torch.nn import functional

from exml.core.errors import SettingError
from exml.core.extras import import_extra
from exml.core.files import write_atomically, write_tensors, write_text
from exml.core.rng import global_seed
from exml.core.samples import Samples
from exml.experts import ExpertTraining, train_expert
from exml.models import LeNet5
from exml.scenarios.digits import digit_images

_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MEAN, _STD = 0.3, 0.38
_LAYERS = [
    {"conv2d": [1, 32, 3, 1, 1]},
    "relu",
    {"max_pool2d": 2},
    {"conv2d": [32, 64, 3, 1, 1]},
    "relu",
    "flatten",
    {"linear": [1024, 5]},
]


def write_example(folder: Path | str, /) -> tuple[Path, Path]:
    """Train three classifiers on the digits of scikit-learn, and write each in a format of its own, with test images.

    ``experts/low`` is a folder of Hugging Face, a small ResNet for color images of 16x16 pixels that knows zero to
    four. ``experts/middle.pth`` is a state dict, a convolutional network for gray images of 8x8 pixels that knows three
    to seven; ``middle.yaml`` has its metadata. ``experts/high.onnx`` is an ONNX file, a LeNet-5 for gray images of
    28x28 pixels that knows six to nine; ``high.yaml`` has its labels. ``images`` has 50 images of each digit that none
    of them was trained on, in one folder per label.

    Args:
        folder: created if it does not exist; it must not contain any of these files.

    Returns:
        tuple: the folder of the experts, and that of the images.

    Raises:
        SettingError: the packages of ``exml[hf,onnx]`` are missing, or the folder exists.
        CheckpointError: a file cannot be written.
    """
    experts, images = Path(folder) / "experts", Path(folder) / "images"
    for path in (experts, images):
        if path.exists():
            raise SettingError(expected=f"no {path} yet", got="one", remedy="give another folder")
    import_extra("onnxscript", "onnx")
    transformers = import_extra("transformers", "hf")
    labels = dict(enumerate(_NAMES[:5]))
    config = transformers.ResNetConfig(
        architectures=["ResNetForImageClassification"],
        num_channels=3,
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
        id2label=labels,
        label2id={label: place for place, label in labels.items()},
    )
    with global_seed(0, "example"):
        low = _trained(transformers.ResNetForImageClassification(config), range(5), (3, 16, 16), _MEAN, _STD)
        convolutions = nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU()
        middle = _trained(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(1024, 5)), range(3, 8), (1, 8, 8))
        high = _trained(LeNet5(1, 4, 28), range(6, 10), (1, 28, 28))
    config.save_pretrained(experts / "low")
    write_tensors(experts / "low" / "model.safetensors", low.state_dict())
    size = {"height": 16, "width": 16}
    processor = transformers.ViTImageProcessor(size=size, image_mean=[_MEAN] * 3, image_std=[_STD] * 3)
    processor.save_pretrained(experts / "low")
    write_atomically(experts / "middle.pth", lambda path: torch.save(middle.state_dict(), path))
    card = {"labels": [*_NAMES[3:7], "Seven"], "image_shape": [1, 8, 8]}
    _write_card(experts / "middle.yaml", {**card, "architecture": {"name": "sequential", "layers": _LAYERS}})
    batch = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(high, (torch.rand(2, 1, 28, 28),), dynamic_shapes=(batch,), verbose=False)
    assert program is not None
    write_atomically(experts / "high.onnx", lambda path: path.write_bytes(program.model_proto.SerializeToString()))
    _write_card(experts / "high.yaml", {"labels": list(_NAMES[6:]), "image_shape": [1, 28, 28]})
    tests = digit_images()["test"]
    for place, (image, label) in enumerate(zip(tests.images, tests.labels.tolist(), strict=True)):
        path = images / _NAMES[label] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].mul(255).round().byte().numpy()).save(path)
    return experts, images


def _trained(
    module: nn.Module, digits: range, shape: tuple[int, int, int], mean: float = 0.0, std: float = 1.0
) -> nn.Module:
    train = digit_images()["train"]
    own = train[(train.labels >= digits.start) & (train.labels < digits.stop)]
    images = functional.interpolate(own.pixels(), shape[1:], mode="bilinear", antialias=True)
    samples = Samples.of(images.expand(-1, *shape), own.labels - digits.start)
    training = ExpertTraining(epochs=15, learning_rate=0.02, schedule="cosine")
    return train_expert(module, samples, training=training, mean=(mean,), std=(std,)).module


def _write_card(path: Path, card: dict[str, Any]) -> None:
    write_text(path, yaml.safe_dump(card, sort_keys=False, default_flow_style=None))
