"""Experts as programs: ``.pt2`` of torch.export and TorchScript, whose loading executes code, and graphs in general."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, fx, nn

from exml.core.admission import guarded
from exml.core.errors import ExpertError
from exml.core.files import MEGABYTE, read_bytes
from exml.core.outputs import logits_of
from exml.core.plain import parse_json
from exml.core.shapes import Images
from exml.experts.card import ExpertCard, complete, fault, require_units
from exml.experts.entries import Entry
from exml.experts.weights import ExpertFiles

_LIMIT = 2**33  # bytes of a program
_FACTS = 64 * MEGABYTE  # bytes of the description of a graph
_METADATA = {"exml.labels": "labels", "exml.image_shape": "image_shape"}
_WHAT = "a program of torch.export or TorchScript"


def describe(entry: Entry, card: Mapping[str, Any], /) -> ExpertCard:
    """What the archive says without being loaded, overlaid by ``card``.

    A file that exml wrote has labels and image shape. Other ``.pt2`` files have the image shape and the number of
    outputs; TorchScript has neither.
    """
    try:
        with zipfile.ZipFile(entry.path) as archive:
            facts = facts_of(_text(archive, "/extra/exml.json") or {})
            shape, units = _signature(_text(archive, "/models/model.json"))
    except (OSError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile, RuntimeError) as error:
        fault(entry.path, error, _WHAT, "export it again with this version of PyTorch")
    return require_units(entry, complete(entry, {"image_shape": shape, **facts}, card), units)


def read(entry: Entry, card: ExpertCard, stop: Callable[[], bool] | None, trust: bool, /) -> ExpertFiles:
    """Load a program, which executes code of the file: only with ``trust``."""
    if not trust:
        expected = f"trust in the author of {entry.path}, since loading it executes code"
        remedy = "if you have it, pass trust=True or --trust; otherwise ask for safetensors or ONNX"
        raise ExpertError(expected=expected, got="none", remedy=remedy)
    with guarded(nn.Identity(), f"{_WHAT} in {entry.path}", "export it again with this version of PyTorch"):
        data = BytesIO(read_bytes(entry.path, _LIMIT, contained=True))
        with zipfile.ZipFile(data) as archive:
            is_script = any(name.endswith("/constants.pkl") for name in archive.namelist())
        data.seek(0)
        module = _script(data) if is_script else _program(data, card)
    return ExpertFiles(entry.path, card, None, make=lambda: module, name=entry.name)


def facts_of(metadata: Mapping[str, str], /) -> dict[str, Any]:
    """The fields of a card in the metadata of a file that exml exported; such a file takes pixels as they are."""
    return {field: parse_json(metadata[name]) for name, field in _METADATA.items() if name in metadata}


class Program(nn.Module):
    """A graph that is always in evaluation mode.

    Args:
        graph: takes images and returns logits.
        batch: the only size of a batch that it takes; None for any. Smaller and larger batches are filled up, split,
            and vectorized.
    """

    def __init__(self, graph: nn.Module, batch: int | None = None) -> None:
        super().__init__()
        self.graph, self.batch = graph.eval(), batch
        self.training = False

    def train(self, mode: bool = True) -> Program:
        """Nothing: layers behave as they were exported."""
        return self

    def forward(self, images: Images) -> Tensor:
        if self.batch is None:
            return logits_of(self.graph(images))
        count, size = len(images), self.batch
        if count % size:
            images = torch.cat((images, images[-1:].expand(size - count % size, *images.shape[1:])))
        parts = images.unflatten(0, (-1, size))
        return torch.vmap(lambda part: logits_of(self.graph(part)))(parts).flatten(0, 1)[:count]


def program_of(graph: fx.GraphModule, image_shape: tuple[int, int, int], batch: int | None, /) -> Program:
    """A graph as a module for batches of any size, with its batch-norm layers as modules where that is possible.

    Args:
        graph: takes images and returns logits.
        image_shape: of an image as the graph takes it.
        batch: the size of a batch that the graph was made for; None for any.
    """
    probe = torch.rand(2 if batch is None else batch + 1, *image_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if batch is None:
            return Program(with_batch_norm(graph))
        fixed = Program(graph, batch)
        wanted = fixed(probe)
        try:  # most graphs take any batch, whatever they declare
            logits = logits_of(graph(probe))
            free = logits.shape == wanted.shape and torch.allclose(logits, wanted, rtol=1e-4, atol=1e-5)
        except Exception:  # such as a reshape to the declared size
            free = False
    return Program(with_batch_norm(graph)) if free else fixed


class _BatchNorm(nn.BatchNorm2d):
    """Batch norm over images, rows or columns."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def with_batch_norm(graph: fx.GraphModule, /) -> fx.GraphModule:
    """A graph whose batch norm, in evaluation mode, is in modules that :mod:`exml.core.activation` sees."""
    for count, node in enumerate(list(graph.graph.nodes)):
        name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        if name not in ("batch_norm.default", "_batch_norm") or len(node.args) < 6:
            continue
        held = node.args[1:5]
        if not all(isinstance(part, fx.Node) and part.op == "get_attr" for part in held):
            continue
        weight, bias, mean, var = (_attribute(graph, part.target) for part in held)
        training, epsilon = (node.args[6], node.args[5]) if name == "_batch_norm" else (node.args[5], node.args[7])
        if training or mean.ndim != 1:
            continue
        layer = _BatchNorm(len(mean), eps=epsilon)
        layer.load_state_dict({"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}, strict=False)
        graph.add_submodule(f"batch_norm_{count}", layer.eval())
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.call_module(f"batch_norm_{count}", (node.args[0],)))
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    return fx.GraphModule(graph, graph.graph)  # with the parameters that are still in use


def _attribute(graph: fx.GraphModule, name: str) -> Tensor:
    owner, _, last = name.rpartition(".")
    return getattr(graph.get_submodule(owner), last)


def _text(archive: zipfile.ZipFile, end: str) -> Any:
    """A JSON file of an archive, below its only folder; None without it."""
    found = [
        item
        for item in archive.infolist()
        if item.filename.endswith(end) and item.filename.count("/") == end.count("/")
    ]
    if not found:
        return None
    if found[0].file_size > _FACTS:
        raise ValueError(f"{found[0].file_size} bytes of {found[0].filename}, more than {_FACTS}")
    return json.loads(archive.read(found[0]))


def _signature(model: Any) -> tuple[list[int] | None, int | None]:
    """Image shape and number of outputs of a program of torch.export, as far as they are fixed numbers."""
    if model is None:
        return None, None
    graph, signature = model["graph_module"]["graph"], model["graph_module"]["signature"]
    (image,) = [spec["user_input"]["arg"] for spec in signature["input_specs"] if "user_input" in spec]
    logits = [spec["user_output"]["arg"] for spec in signature["output_specs"] if "user_output" in spec]
    shapes = [
        [size.get("as_int") for size in graph["tensor_values"][part["as_tensor"]["name"]]["sizes"]]
        for part in (image, *logits)
    ]
    shape = shapes[0][1:] if len(shapes[0]) == 4 and None not in shapes[0][1:] else None
    return shape, shapes[1][1] if len(shapes) == 2 and len(shapes[1]) == 2 else None


def _program(data: BytesIO, card: ExpertCard) -> nn.Module:
    loaded: Any = torch.export.load(data).module()
    for node in list(loaded.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":  # refuses batches of another size
            loaded.graph.erase_node(node)
    graph = fx.GraphModule(loaded, loaded.graph)  # without hooks that do the same
    (image,) = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    batch = image.shape[0] if isinstance(image.shape[0], int) else None
    return program_of(graph, card.image_shape, batch)


def _script(data: BytesIO) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, that TorchScript is deprecated
        return torch.jit.load(data, map_location="cpu").eval()
