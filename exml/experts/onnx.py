"""Experts as ONNX: a file becomes a graph of PyTorch operations, with gradients."""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
import torch
from torch import fx, nn

from exml.core.admission import guarded
from exml.core.errors import ExpertError
from exml.core.extras import import_extra
from exml.core.files import read_bytes
from exml.core.memory import require_memory
from exml.experts.card import ExpertCard, complete, fault, require_units
from exml.experts.entries import Entry
from exml.experts.exported import Program, facts_of, program_of
from exml.experts.weights import ExpertFiles

_LIMIT, _NODES, _TEXT = 2**31 - 1, 20_000, 2**22  # bytes and operations of a model, characters of its labels
_LABELS = ("labels", "names", "id2label", "class_names", "classes")
_FLOAT32 = 1
_WHAT = "an ONNX model of an image classifier"
_QUERY = "use exml.Expert.query with onnxruntime"


@attrs.frozen
class _Layout:
    """The input and the output of a model; None stands for sizes that are free."""

    name: str
    batch: int | None
    image: tuple[int | None, int | None, int | None]
    channels_last: bool
    output: str
    units: int | None


def describe(entry: Entry, card: Mapping[str, Any], /) -> ExpertCard:
    """What the file says about its input, outputs and labels, overlaid by ``card``.

    Labels are those under a key such as ``names`` or ``id2label`` of its metadata, as JSON or as a Python literal.
    """
    model, layout = _parsed(entry)
    metadata = {item.key: item.value for item in model.metadata_props}
    channels, *size = layout.image
    facts: dict[str, Any] = {"labels": None if "exml.labels" in metadata else _labels(metadata)}
    if None not in layout.image:
        facts["image_shape"] = [channels, *size]
    if facts["labels"] is None and layout.units is not None and not card.keys() & {"labels", "classes"}:
        facts["classes"] = list(range(layout.units))
    try:
        facts.update(facts_of(metadata))
    except ValueError as error:
        fault(entry.path, error, _WHAT, "export it again")
    if "labels" in facts and facts["labels"] is not None:
        facts.pop("classes", None)
    made = complete(entry, facts, card)
    if any(ours not in (None, theirs) for ours, theirs in zip(layout.image, made.image_shape, strict=True)):
        got = f"image_shape {made.image_shape}"
        remedy = "correct image_shape on the card"
        raise ExpertError(expected=f"images {layout.image} as {entry.path} takes", got=got, remedy=remedy)
    return require_units(entry, made, layout.units)


def read(entry: Entry, card: ExpertCard, stop: Callable[[], bool] | None, trust: bool, /) -> ExpertFiles:
    """Convert the model; an ExpertError names a conversion whose logits are not those of ONNX Runtime.

    Most exporters fold batch norm into convolutions: such an expert has no statistics for a prior.
    """
    model, layout = _parsed(entry)
    onnx2fx, runtime = import_extra("onnx2fx", "onnx"), import_extra("onnxruntime", "onnx")
    onnx: Any = import_extra("onnx", "onnx")
    with guarded(nn.Identity(), f"operations of PyTorch for those of {entry.path}", _QUERY), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about themselves
        _load_external(onnx, model, entry)
        model = import_extra("onnx.inliner", "onnx").inline_local_functions(model)
        graph = _arranged(onnx2fx.convert(model), [output.name for output in model.graph.output], layout)
        program = program_of(graph, card.image_shape, layout.batch)
        settings = runtime.SessionOptions()
        settings.log_severity_level = 3
        session = runtime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    _require_equal(entry, program, session, layout, card.image_shape)
    return ExpertFiles(entry.path, card, None, make=lambda: program, name=entry.name)


def _parsed(entry: Entry) -> tuple[Any, _Layout]:
    """The model without external data, checked, and its layout. A softmax at its end is removed."""
    onnx: Any = import_extra("onnx", "onnx")
    try:
        model = onnx.load_model_from_string(read_bytes(entry.path, _LIMIT, contained=True))
        if len(model.graph.node) > _NODES:
            raise ValueError(f"{len(model.graph.node)} operations, more than {_NODES}")
        loops = {node.op_type for node in model.graph.node} & {"Loop", "Scan"}
        if loops:
            remedy = f"export it without them, or {_QUERY}"
            raise ExpertError(expected="a model without loops", got=" and ".join(sorted(loops)), remedy=remedy)
        onnx.checker.check_model(_without_external(model))
        return model, _layout(model.graph)
    except ExpertError as error:
        fault(entry.path, error, "", "")
    except Exception as error:  # protobuf and the checker raise errors of their own
        fault(entry.path, error, _WHAT, "export it again")


def _without_external(model: Any) -> bytes:
    """The model for the checker, which would look for external data in the current folder."""
    copied = type(model)()
    copied.CopyFrom(model)
    for tensor in copied.graph.initializer:
        if tensor.external_data:
            del tensor.external_data[:]
            tensor.data_location = 0
            tensor.raw_data = b""
            tensor.dims[:] = [0]
    return copied.SerializeToString()


def _layout(graph: Any) -> _Layout:
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    sizes = _sizes(inputs[0]) if len(inputs) == 1 else None
    if sizes is None or len(sizes) != 4 or inputs[0].type.tensor_type.elem_type != _FLOAT32:
        listed = [f"{value.name} {_sizes(value)} of type {value.type.tensor_type.elem_type}" for value in inputs]
        remedy = f"export it with float32 images (batch, channels, height, width) alone, or {_QUERY}"
        raise ExpertError(expected="one input of float32 images", got=", ".join(listed) or "none", remedy=remedy)
    batch, *image = sizes
    channels_last = image[2] in (1, 3) and image[0] not in (1, 3)
    image = [image[2], *image[:2]] if channels_last else image
    output = _output(graph)
    units = _sizes(output) or [None]
    for node in graph.node:
        if output.name in node.output and node.op_type == "Softmax":
            output.name = node.input[0]  # the logits
            break
    return _Layout(inputs[0].name, batch, (image[0], image[1], image[2]), channels_last, output.name, units[-1])


def _output(graph: Any) -> Any:
    """The output with the logits: the only one of floating ``(batch, units)``, or the one with that name."""
    floating = [value for value in graph.output if value.type.tensor_type.elem_type == _FLOAT32]
    fitting = [value for value in floating if len(_sizes(value) or [0, 0]) == 2]
    named = [value for value in fitting if value.name == "logits"]
    found = named or fitting
    if len(found) != 1:
        listed = ", ".join(f"{value.name} {_sizes(value)}" for value in graph.output)
        remedy = f"export it with the logits alone, or {_QUERY}"
        raise ExpertError(expected="one output of float32 logits (batch, units)", got=listed, remedy=remedy)
    return found[0]


def _sizes(value: Any) -> list[int | None] | None:
    """The shape of a value, with None for free sizes; None if it is unknown."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [size.dim_value or None for size in value.type.tensor_type.shape.dim]


def _labels(metadata: Mapping[str, str]) -> list[str] | None:
    for key in _LABELS:
        text = metadata.get(key, "")
        if not 0 < len(text) <= _TEXT:
            continue
        try:
            try:
                found = json.loads(text)
            except ValueError:
                found = ast.literal_eval(text)
            if isinstance(found, dict):
                named = {int(unit): label for unit, label in found.items()}
                found = [named[unit] for unit in range(len(named))]
        except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and found and all(isinstance(label, str) for label in found):
            return found
    return None


def _load_external(onnx: Any, model: Any, entry: Entry) -> None:
    """Load tensors from files in the model's own folder; onnx refuses others."""
    needed = 3 * model.ByteSize()
    for tensor in model.graph.initializer:
        if tensor.external_data:
            needed += 3 * 8 * math.prod(tensor.dims)
    require_memory(needed, "the expert", "load it on a machine with more memory")
    onnx.external_data_helper.load_external_data_for_model(model, str(entry.path.parent))


def _arranged(graph: fx.GraphModule, outputs: list[str], layout: _Layout) -> fx.GraphModule:
    """A graph that takes ``(batch, channels, height, width)`` and returns the logits alone."""
    images, *_ = (node for node in graph.graph.nodes if node.op == "placeholder")
    if layout.channels_last:
        with graph.graph.inserting_after(images):
            moved = graph.graph.call_method("permute", (images, 0, 2, 3, 1))
        images.replace_all_uses_with(moved, delete_user_cb=moved.__ne__)
    *_, last = graph.graph.nodes
    if isinstance(last.args[0], tuple | list):
        last.args = (last.args[0][outputs.index(layout.output)],)
    graph.graph.eliminate_dead_code()
    return fx.GraphModule(graph, graph.graph)


def _require_equal(
    entry: Entry, program: Program, session: Any, layout: _Layout, image_shape: tuple[int, int, int]
) -> None:
    """Raise an ExpertError unless the converted model computes the logits of ONNX Runtime."""
    images = torch.rand(layout.batch or 2, *image_shape, generator=torch.Generator().manual_seed(0))
    fed = images.permute(0, 2, 3, 1) if layout.channels_last else images
    with torch.no_grad(), guarded(program, f"a model that takes images {image_shape} in {entry.path}", _QUERY):
        logits = program(images)
        (wanted,) = session.run([layout.output], {layout.name: np.ascontiguousarray(fed.numpy())})
        difference = float((logits - torch.from_numpy(wanted)).abs().max())
        scale = max(1.0, float(logits.abs().max()))
    if not difference <= 1e-3 * scale:
        expected = f"the logits of ONNX Runtime from the operations of PyTorch for {entry.path}"
        raise ExpertError(expected=expected, got=f"a difference of {difference:.2g}", remedy=_QUERY)
