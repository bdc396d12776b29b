"""Classifiers as one file for other runtimes: ONNX, and the ``.pt2`` archive of :mod:`torch.export`."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from exml.core.admission import guarded
from exml.core.errors import ExpertError, SettingError
from exml.core.expert import Expert
from exml.core.extras import import_extra
from exml.core.files import write_atomically
from exml.core.outputs import logits_of

Format = Literal["onnx", "pt2"]
TOLERANCE = 1e-5
"""The largest difference between logits of the file and of the module, as a fraction of the largest logit (>= 1)."""
_OPSET = 18  # the first with antialiasing
_FREE = {0: "batch", 2: "height", 3: "width"}
_Run: TypeAlias = Callable[[Tensor], Tensor]


class _Deployed(nn.Module):
    """A classifier with its resize and normalization inside; it returns one logit per class of the expert."""

    mean: Tensor
    std: Tensor
    units: Tensor | None

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        self.module, self.size = copy.deepcopy(expert.module).cpu().eval(), list(expert.image_shape[1:])
        self.register_buffer("mean", torch.tensor(expert.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(expert.std).view(-1, 1, 1))
        self.register_buffer("units", None if expert.outputs == expert.classes else expert.own_units.clone())

    def forward(self, pixels: Tensor) -> Tensor:
        resized = nn.functional.interpolate(pixels, self.size, mode="bilinear", antialias=True)
        logits = logits_of(self.module((resized - self.mean) / self.std))
        return logits if self.units is None else logits.index_select(1, self.units)


def export(expert: Expert, path: Path | str, *, format: Format | None = None) -> Path:
    """Write a classifier as one file that needs neither exml nor its own source code.

    The graph takes ``pixels``, float32 ``(batch, channels, height, width)`` from 0 to 1, where batch, height and width
    are free and the channels are those of the expert. It resizes them (bilinear, antialiased), normalizes them and
    returns ``logits``, float32 ``(batch, classes)``. A softmax gives probabilities. The metadata are text by name: the
    ``metadata_props`` of ONNX, or the JSON object in the extra file ``exml.json`` of a ``.pt2`` archive, whose values
    are JSON:

    ==================== ===============================================================
    ``exml.labels``      the name of each logit; the number of its class without labels
    ``exml.classes``     the class id of each logit
    ``exml.image_shape`` ``[channels, height, width]`` of the images inside
    ``exml.name``        the name of the expert, as text
    ``exml.version``     the version of exml, as text
    ==================== ===============================================================

    The file is written only if its logits are those of the module, for batches of 1, 2 and 5 random images of three
    sizes: no difference is larger than 1e-5 of the largest absolute logit, or than 1e-5 if that is below 1.

    Args:
        format: ``"onnx"`` (opset 18) or ``"pt2"``; by default, the suffix of ``path``.

    Returns:
        Path: of the file.

    Raises:
        SettingError: an unknown format, or ``"onnx"`` without the packages of ``exml[onnx]``.
        ExpertError: the module cannot be traced, or the file would have other logits.
        CheckpointError: the file cannot be written.

    >>> import tempfile, torch
    >>> from exml.experts import Expert, export
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> expert = Expert(head, labels=["cat", "dog"], image_shape=(1, 8, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(expert, f"{folder}/pets.pt2").name
    'pets.pt2'
    """
    path = Path(path)
    chosen = path.suffix.removeprefix(".") if format is None else format
    if chosen not in get_args(Format):
        remedy = "end the path with .onnx or .pt2, or name the format"
        raise SettingError(expected="onnx or pt2", got=repr(chosen), remedy=remedy)
    for package in _PACKAGES[chosen]:
        import_extra(package, "onnx")
    remedy = "remove operations that depend on the values of a tensor, or use save_pretrained"
    with (
        guarded(expert.module, f"a module that torch.export can trace (expert {expert.name!r})", remedy),
        warnings.catch_warnings(),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")  # of the exporters, about themselves
        module = _Deployed(expert)
        images = torch.rand(2, *(length + extra for length, extra in zip(expert.image_shape, (0, 8, 20), strict=True)))
        data, run = _EXPORTERS[chosen](module, images, _metadata(expert))
        _require_equal(module, run, expert.image_shape)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    return path


def _metadata(expert: Expert) -> dict[str, str]:
    labels = expert.labels or [str(known) for known in expert.classes]
    values = {"labels": labels, "classes": expert.classes, "image_shape": expert.image_shape}
    texts = {f"exml.{name}": json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    return {**texts, "exml.name": expert.name, "exml.version": version("exml")}


def _onnx(module: nn.Module, images: Tensor, metadata: Mapping[str, str]) -> tuple[bytes, _Run]:
    import onnxruntime

    program = torch.onnx.export(
        module,
        (images,),
        input_names=["pixels"],
        output_names=["logits"],
        opset_version=_OPSET,
        dynamic_shapes=({axis: torch.export.Dim(name, min=1, max=2**16) for axis, name in _FREE.items()},),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(metadata)
    data: bytes = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, lambda pixels: torch.from_numpy(session.run(["logits"], {"pixels": pixels.numpy()})[0])


def _pt2(module: nn.Module, images: Tensor, metadata: Mapping[str, str]) -> tuple[bytes, _Run]:
    program = torch.export.export(module, (images,), dynamic_shapes=(dict.fromkeys(_FREE, torch.export.Dim.DYNAMIC),))
    file = BytesIO()
    torch.export.save(program, file, extra_files={"exml.json": json.dumps(metadata)})
    file.seek(0)
    return file.getvalue(), torch.export.load(file).module()


_EXPORTERS = {"onnx": _onnx, "pt2": _pt2}
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}


def _require_equal(module: nn.Module, run: _Run, image_shape: tuple[int, int, int]) -> None:
    """Raise an ExpertError unless an exported file computes the logits of the module."""
    channels, height, width = image_shape
    generator = torch.Generator().manual_seed(0)
    for batch, *size in ((1, height, width), (2, 2 * height + 1, width + 3), (5, height // 2 + 1, width)):
        pixels = torch.rand(batch, channels, *size, generator=generator)
        logits = module(pixels)
        difference, scale = float((run(pixels) - logits).abs().max()), max(1.0, float(logits.abs().max()))
        if not difference <= TOLERANCE * scale:
            raise ExpertError(
                expected=f"logits within {TOLERANCE} of the largest, {scale:.3g}, for images {tuple(pixels.shape)}",
                got=f"a difference of {difference:.2g}",
                remedy="export in the other format, or use save_pretrained",
            )
