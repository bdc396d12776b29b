"""Classifiers as folders in the layout of Hugging Face, which tools and people know without exml."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import torch
import yaml
from torch import nn

from exml.core.errors import ExpertError, printable
from exml.core.expert import Expert
from exml.core.files import file_digest, read_json, write_json, write_tensors, write_text
from exml.core.serialization import to_plain
from exml.experts.card import ExpertCard, complete
from exml.experts.entries import Entry
from exml.experts.weights import savable
from exml.models import Normalized

_CONFIG, _PREPROCESSOR, _WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
_OWN = ("name", "classes", "outputs", "task", "architecture", "sha256", "training", "version")
_SHOWN = 100  # labels in a model card
_FRONT = """---
library_name: exml
pipeline_tag: image-classification
tags:
- exml
- image-classification
- model-merging
- data-free
---"""
_LEARNED = """[exml](https://arxiv.org/abs/2112.06511) learned it from the {count} classifier(s) below, without their
training images."""
_USE = """```python
import exml

model = exml.Student.load("FOLDER")
model.predict("photo.jpg")
model.export("model.onnx")  # one file that needs no exml
```

On the command line: `exml predict FOLDER photo.jpg` and `exml export FOLDER --format onnx`. `exml.load("FOLDER")`
returns it as an expert, from which another student can learn."""
_TORCHVISION = """Without exml, the weights load strictly into torchvision's model:

```python
from safetensors.torch import load_file
from torchvision.models import get_model

model = get_model("{name}", weights=None, {settings})
model.load_state_dict(load_file("FOLDER/model.safetensors"), strict=True)
```"""


def save_pretrained(
    expert: Expert,
    folder: Path | str,
    *,
    readme: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a classifier as a folder in the layout of Hugging Face, which :func:`exml.load` reads.

    ``model.safetensors`` has the weights, under the names of the plain architecture. ``preprocessor_config.json`` has
    mean, std and size of the images, and ``config.json``, which is written last, the labels of the outputs, the
    architecture and the SHA-256 of the weights. For an architecture of timm, ``config.json`` is in timm's layout as
    well: ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads the folder. ``README.md`` is a model card.
    Existing files of these names are replaced, each at once.

    Args:
        expert: of a registered architecture. A :class:`exml.models.Normalized` module is saved without its
            normalization, which becomes part of the mean and std.
        folder: created if it does not exist.
        readme: the model card; by default one that describes the labels, the provenance and how to load the model.
        provenance: where the classifier comes from, as JSON. The model card shows ``experts`` (a list with ``name``,
            ``labels`` or ``classes``, and ``sha256`` of each), ``strategy``, ``versions``, ``verdict`` and ``warning``.

    Returns:
        Path: the folder.

    Raises:
        ExpertError: the weights do not fit the registered architecture, or ``provenance`` is not JSON.
        UnknownNameError: the architecture is not registered.
        CheckpointError: a file cannot be written.

    >>> from exml.experts import Expert, save_pretrained
    >>> import tempfile
    >>> from exml.models import ConvNet
    >>> expert = Expert(ConvNet(1, 2, 8), labels=["cat", "dog"], image_shape=(1, 8, 8), name="pets")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(path.name for path in save_pretrained(expert, folder).iterdir())
    ['README.md', 'config.json', 'model.safetensors', 'preprocessor_config.json']
    """
    folder, expert = Path(folder), _unwrapped(expert)
    card, state = savable(expert, provenance)
    text = _model_card(expert, card) if readme is None else readme
    write_text(folder / "README.md", text)
    write_json(folder / _PREPROCESSOR, _preprocessor(card))
    write_tensors(folder / _WEIGHTS, state)
    card = attrs.evolve(card, sha256=file_digest(folder / _WEIGHTS))
    write_json(folder / _CONFIG, _config(expert, card))
    return folder


def describe_student(entry: Entry, card: Mapping[str, Any], /) -> ExpertCard:
    """The metadata of a folder that :func:`save_pretrained` wrote, overlaid by ``card``."""
    try:
        config, processor = (read_json(entry.path / name, contained=True) for name in (_CONFIG, _PREPROCESSOR))
        own = dict(config["exml"])
        size = config["image_size"]
        facts = {
            **{name: own.get(name) for name in _OWN},
            "image_shape": [config["num_channels"], *(size if isinstance(size, list) else [size, size])],
            "mean": processor["image_mean"],
            "std": processor["image_std"],
        }
        if own["named"]:
            facts["labels"] = [config["id2label"][str(own["outputs"].index(known))] for known in own["classes"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else str(error)
        remedy = "get the folder again, or save the student again"
        raise ExpertError(expected=f"a folder of exml in {entry.path}", got=missing, remedy=remedy) from error
    return complete(entry, facts, card)


def _unwrapped(expert: Expert) -> Expert:
    """The expert with the normalization inside its module as mean and std: (x - mean) / std of both, in turn."""
    module, channels = expert.module, expert.image_shape[0]
    mean, std = (torch.tensor(values).expand(channels) for values in (expert.mean, expert.std))
    while isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel | Normalized):
        if isinstance(module, Normalized):
            mean, std = mean + std * module.mean.flatten().cpu(), std * module.std.flatten().cpu()
        module = module.module
    # The shortest decimals of the same float32 numbers.
    mean, std = ([float(str(number)) for number in values.numpy()] for values in (mean, std))
    return attrs.evolve(expert, module=module, mean=mean, std=std)


def _preprocessor(card: ExpertCard) -> dict[str, Any]:
    _, height, width = card.image_shape
    return {
        "image_processor_type": "ViTImageProcessor",  # resize, rescale, normalize
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": card.mean,
        "image_std": card.std,
    }


def _config(expert: Expert, card: ExpertCard) -> dict[str, Any]:
    (channels, *size), plain = card.image_shape, to_plain(card)
    names: dict[int | None, str] = dict(zip(card.classes, card.labels or map(str, card.classes), strict=True))
    units = [names.get(unit, f"unused {place}") for place, unit in enumerate(expert.outputs)]
    return {
        "model_type": "exml",
        "architectures": [type(expert.module).__name__],
        "num_labels": len(units),
        "id2label": {str(place): label for place, label in enumerate(units)},
        "label2id": {label: place for place, label in enumerate(units)},
        "num_channels": channels,
        "image_size": size[0] if size[0] == size[1] else size,
        **(_timm(card, units) if card.architecture["name"].startswith("timm/") else {}),
        "exml": {**{name: plain[name] for name in _OWN}, "named": card.labels is not None, "exml": version("exml")},
    }


def _timm(card: ExpertCard, labels: Sequence[str]) -> dict[str, Any]:
    """What ``timm.create_model("local-dir:FOLDER")`` reads."""
    given = {
        name: value for name, value in card.architecture["settings"].items() if name not in ("classes", "channels")
    }
    return {
        "architecture": card.architecture["name"].removeprefix("timm/").partition(".")[0],
        "num_classes": len(labels),
        "label_names": list(labels),
        "model_args": given,
        "pretrained_cfg": {
            "input_size": card.image_shape,
            "mean": card.mean,
            "std": card.std,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "num_classes": len(labels),
        },
    }


def _model_card(expert: Expert, card: ExpertCard) -> str:
    """The text of README.md, for people."""
    about, shape = card.training, " x ".join(map(str, card.image_shape))
    mean, std = (", ".join(map(str, values)) for values in (card.mean, card.std))
    labels = card.labels or tuple(map(str, card.classes))
    experts = about.get("experts") or ()
    parts = [_FRONT, f"# {_inline(card.name)}", f"An image classifier of {len(labels)} classes."]
    parts += [_LEARNED.format(count=len(experts))] if experts else []
    parts += [f"**{_inline(about[key])}**" for key in ("verdict", "warning") if about.get(key)]
    parts += ["## Classes", _listed(labels)]
    parts += ["## Use", _USE, _loading(card)]
    parts += [f"Images inside: {shape} (channels, height, width), from 0 to 1, minus {mean}, divided by {std}."]
    if experts:
        rows = [
            f"| {_inline(row.get('name', ''))} | {_listed(row.get('labels') or row.get('classes') or ())} |"
            f" {row.get('sha256') or ''} |"
            for row in experts
        ]
        parts += ["## Provenance", "\n".join(["| expert | classes | SHA-256 |", "| --- | --- | --- |", *rows])]
    rest = {name: about[name] for name in ("strategy", "versions") if about.get(name)}
    if rest:
        parts += [f"```yaml\n{yaml.safe_dump(rest, sort_keys=False, allow_unicode=True)}```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _loading(card: ExpertCard) -> str:
    """How to load the weights without exml, where a library has the architecture."""
    library, _, name = card.architecture["name"].partition("/")
    if library == "timm":
        return 'With timm: `timm.create_model("local-dir:FOLDER", pretrained=True)`.'
    if library == "torchvision" and card.image_shape[0] == 3:
        settings = {name: value for name, value in card.architecture["settings"].items() if name != "channels"}
        given = ", ".join(f"{name.replace('classes', 'num_classes')}={value!r}" for name, value in settings.items())
        return _TORCHVISION.format(name=name, settings=given)
    return ""


def _listed(labels: Sequence[object]) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(map(_inline, labels[:_SHOWN])) + more


def _inline(text: object) -> str:
    """A stranger's text on one line of Markdown, without any markup of its own."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", printable(str(text)))
