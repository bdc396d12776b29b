"""Experts in the layouts of the Hugging Face Hub: folders of transformers, timm and exml."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import attrs
import torch
from torch import Tensor, nn

from exml.core.errors import ExmlError, ExpertError
from exml.core.extras import import_extra
from exml.core.files import MEGABYTE, read_json
from exml.core.rng import global_seed
from exml.core.shapes import Images, State
from exml.experts import weights
from exml.experts.card import ExpertCard, complete, fault, require_units
from exml.experts.entries import Entry
from exml.experts.pretrained import describe_student
from exml.experts.state_dict import read_checkpoint
from exml.experts.weights import ExpertFiles, read_weights, renamed
from exml.models import bounded

_CONFIG, _PROCESSOR, _WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
_FILES = (_WEIGHTS, f"{_WEIGHTS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_LIMIT = 16 * MEGABYTE  # of a configuration: 20,000 labels take 2 MB
_EXECUTED = ("auto_map", "custom_pipelines", "quantization_config")
_IGNORED = ("attn_implementation", "_attn_implementation", "dtype", "torch_dtype", "transformers_version")
_REFUSED = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}  # of model_args


def describe(entry: Entry, card: Mapping[str, Any], /) -> ExpertCard:
    """The metadata of the configuration and of the image processor, overlaid by ``card``.

    Labels are those of ``id2label`` or ``label_names``; several outputs of one name get their number in parentheses.
    The placeholders ``LABEL_0``, ``LABEL_1`` ... are no names: such an expert has only class ids.
    """
    config = _config(entry)
    if config.get("model_type") == "exml":
        return describe_student(entry, card)
    try:
        if _is_timm(config):
            units, facts = _timm_facts(config)
        else:
            given = {"mean", "std", "image_shape"} <= card.keys()
            path = entry.path / _PROCESSOR
            processor = {} if given and not path.exists() else read_json(path, _LIMIT, contained=True)
            units, facts = _facts(config, processor)
    except FileNotFoundError as error:
        expected = f"{_PROCESSOR}, which has the size, mean and std of the images, in {entry.path}"
        remedy = "get the whole folder, or give image_shape, mean and std on the card"
        raise ExpertError(expected=expected, got="no such file", remedy=remedy) from error
    except (OSError, ExmlError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        got = f"no {error}" if type(error) is KeyError else f"{type(error).__name__}: {error}"
        raised = error if isinstance(error, ExmlError) else ValueError(got)
        fault(entry.path, raised, "a configuration of an image classifier", "get the folder again")
    return require_units(entry, complete(entry, facts, card), units)


def header(entry: Entry, card: ExpertCard, /) -> State:
    """The weights on the device ``meta``, from the headers of all files."""
    found = dict[str, Tensor]()
    for path in _weights(entry):
        if path.suffix == ".bin":
            found.update(read_checkpoint(path, values=False))
        else:
            found.update(weights.header(attrs.evolve(entry, path=path), card))
    return found


def read(entry: Entry, card: ExpertCard, stop: Callable[[], bool] | None, trust: bool, /) -> ExpertFiles:
    """Read the weights; the module is built without code of the folder, and without a network."""
    config = _config(entry)
    paths = _weights(entry)
    if card.sha256 is not None and (len(paths) > 1 or paths[0].suffix == ".bin"):
        got = ", ".join(path.name for path in paths)
        expected = f"one file {_WEIGHTS} for the sha256 of {entry.card}"
        raise ExpertError(expected=expected, got=got, remedy="remove sha256 from the card")
    state = dict[str, Tensor]()
    for path in paths:
        binary = path.suffix == ".bin"
        state.update(read_checkpoint(path, None, stop) if binary else read_weights(path, card.sha256, stop))
    if config.get("model_type") == "exml":
        return ExpertFiles(entry.path, card, state, name=entry.name)
    make = _timm_module if _is_timm(config) else _transformers_module
    return ExpertFiles(entry.path, card, None, make=lambda: make(entry, config, state), name=entry.name)


class Classifier(nn.Module):
    """A classifier of transformers that returns only its logits; ``flip`` reverses the channels, as for BGR."""

    def __init__(self, model: nn.Module, flip: bool) -> None:
        super().__init__()
        self.model, self.flip = model, flip

    def forward(self, images: Images) -> Tensor:
        """Logits ``(batch, units)``."""
        return self.model(images.flip(1) if self.flip else images, return_dict=True).logits


# ---- configurations


def _config(entry: Entry) -> dict[str, Any]:
    try:
        config = read_json(entry.path / _CONFIG, _LIMIT, contained=True)
        if not isinstance(config, dict):
            raise TypeError(f"a {type(config).__name__}")
    except (OSError, ValueError, TypeError) as error:
        fault(entry.path / _CONFIG, error, "a configuration", "get the folder again")
    for name in _EXECUTED:
        if config.get(name):
            expected = f"a classifier of transformers or timm in {entry.path}"
            remedy = "use a folder without it, or load the model with its own library: exml.Expert takes any module"
            raise ExpertError(expected=expected, got=f"{name!r}, which needs other code", remedy=remedy)
    return config


def _is_timm(config: Mapping[str, Any]) -> bool:
    return "architecture" in config and ("pretrained_cfg" in config or "architectures" not in config)


def _weights(entry: Entry) -> list[Path]:
    """The files of weights, which must be in the folder itself; safetensors before ``.bin``."""
    path = next((entry.path / name for name in _FILES if (entry.path / name).exists()), None)
    if path is None:
        raise ExpertError(expected=f"{_WEIGHTS} in {entry.path}", got="no such file", remedy="get the whole folder")
    if path.suffix != ".json":
        return [path]
    try:
        names = sorted(set(read_json(path, _LIMIT, contained=True)["weight_map"].values()))
        if not all(Path(name).name == name for name in names):
            raise ValueError(f"files {names}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fault(path, error, "the names of the files of weights", "get the folder again")
    return [entry.path / name for name in names]


def _facts(config: Mapping[str, Any], processor: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """The number of outputs, and the fields of a card, of a folder of transformers."""
    kind = next(iter(config.get("architectures") or ()), "")
    if kind and "ImageClassification" not in kind:
        remedy = "use a model for image classification; detection and segmentation are not supported"
        raise ExpertError(expected="an image classifier", got=kind, remedy=remedy)
    named = config.get("id2label")
    units = config.get("num_labels", 2) if named is None else len(named)
    labels = None if named is None else [named[str(unit)] for unit in range(units)]
    channels = config.get("num_channels", 3)
    size = _size(config, processor)
    mean, std = _normalization(processor) if processor else (None, None)
    facts = {
        "image_shape": None if size is None else [channels, *size],
        "mean": _of_channels(mean, channels),
        "std": _of_channels(std, channels),
        **_named(labels, units),
    }
    return units, facts


def _size(config: Mapping[str, Any], processor: Mapping[str, Any]) -> list[int] | None:
    """Height and width of the images that the classifier sees, in one of the many forms of a processor."""
    size = processor.get("size") if processor.get("do_resize", True) else None
    if processor.get("do_center_crop") and processor.get("crop_size") is not None:
        size = processor["crop_size"]
    if size is None:
        size = config.get("image_size")
    if isinstance(size, Mapping):
        short = size.get("shortest_edge", size.get("longest_edge"))
        size = [size["height"], size["width"]] if "height" in size else short
    return [size, size] if isinstance(size, int) else size


def _normalization(processor: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and std in pixel units of what a processor does with values from 0 to 255."""
    scale, offset, times = 1.0, 0.0, 1
    if processor.get("do_rescale", True):
        scale, offset = processor.get("rescale_factor", 1 / 255), float(bool(processor.get("rescale_offset")))
    mean, std = [0.0], [1.0]
    if processor.get("do_normalize", True):
        mean, std = processor.get("image_mean", [0.5]), processor.get("image_std", [0.5])
        times = 2 if processor.get("include_top") else 1  # EfficientNet divides by the std once more
    return [(value + offset) / (255 * scale) for value in mean], [value**times / (255 * scale) for value in std]


def _of_channels(values: Sequence[float] | None, channels: int) -> Sequence[float] | None:
    """One value for equal ones: processors have three of them for gray images too."""
    return values[:1] if values is not None and len(set(values)) == 1 and len(values) != channels else values


def _timm_facts(config: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """The number of outputs, and the fields of a card, of a folder of timm."""
    about = _pretrained_cfg(config)
    units = (config.get("model_args") or {}).get("num_classes", about["num_classes"])
    names, texts = about.get("label_names"), about.get("label_descriptions")
    if isinstance(names, Mapping):
        names = [names.get(str(unit), str(unit)) for unit in range(units)]
    if names and isinstance(texts, Mapping) and all(re.fullmatch(r"n\d{8}", name) for name in names):  # of WordNet
        names = [texts.get(name, name) for name in names]
    shape = list(about["input_size"])
    mean, std = (_of_channels(about[name], shape[0]) for name in ("mean", "std"))
    return units, {"image_shape": shape, "mean": mean, "std": std, **_named(names, units)}


def _pretrained_cfg(config: Mapping[str, Any]) -> dict[str, Any]:
    """Timm's description of the weights; older folders have it in the configuration itself."""
    root = {name: value for name, value in config.items() if name not in ("pretrained_cfg", "model_args")}
    return {**(config.get("pretrained_cfg") or {}), **root}


def _named(labels: Sequence[str] | None, units: int) -> dict[str, Any]:
    """Labels that differ, or class ids if there are only placeholders."""
    if labels is None or all(re.fullmatch(r"LABEL_\d+", label) for label in labels):
        return {"classes": list(range(units))}
    times = Counter(labels)
    return {"labels": [f"{label} ({unit})" if times[label] > 1 else label for unit, label in enumerate(labels)]}


# ---- modules


def _transformers_module(entry: Entry, config: Mapping[str, Any], state: State) -> nn.Module:
    transformers = import_extra("transformers", "hf")
    plain = {name: value for name, value in config.items() if name not in _IGNORED}
    processor = entry.path / _PROCESSOR
    flip = processor.exists() and read_json(processor, _LIMIT, contained=True).get("do_flip_channel_order", False)
    try:
        made = transformers.AutoConfig.for_model(**plain)
        with torch.device("meta"), bounded(made.model_type):
            kind = type(transformers.AutoModelForImageClassification.from_config(made))
        with global_seed(0, "load"), _silent(transformers.utils.logging):
            model, info = kind.from_pretrained(None, config=made, state_dict=state, output_loading_info=True)
    except (ExmlError, RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        _misfit("transformers", error)
    faults = {kind: sorted(map(str, info[f"{kind}_keys"])) for kind in ("missing", "mismatched", "unexpected")}
    listed = [f"{len(names)} {kind}, such as {names[0]}" for kind, names in faults.items() if names]
    if listed:
        remedy = "get the folder again: its files do not belong together"
        got = f"tensors that differ: {'; '.join(listed)}"
        raise ExpertError(expected=f"weights of the architecture in {_CONFIG}", got=got, remedy=remedy)
    return Classifier(model.float(), bool(flip))


def _timm_module(_entry: Entry, config: Mapping[str, Any], state: State) -> nn.Module:
    timm = import_extra("timm", "timm")
    name, settings = config["architecture"], config.get("model_args") or {}
    if not isinstance(name, str) or not timm.is_model(name) or _REFUSED & set(settings):
        got = f"{name!r} with {sorted(settings)}"
        remedy = "install a newer version of timm, or use a folder without settings that load other files"
        raise ExpertError(expected=f"a model of timm in {_CONFIG}", got=got, remedy=remedy)

    fields = timm.models.PretrainedCfg.__dataclass_fields__
    about = {key: value for key, value in _pretrained_cfg(config).items() if key in fields}

    def make() -> nn.Module:
        return timm.create_model(name, pretrained=False, pretrained_cfg=about, **settings)

    try:
        with torch.device("meta"), bounded(name):
            names = renamed(state, make().state_dict())
        with global_seed(0, "load"):
            module = make()
        module.load_state_dict({names[key]: tensor for key, tensor in state.items()})
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        _misfit("timm", error)
    return module.float()


@contextmanager
def _silent(logging: Any) -> Generator[None]:
    """Within the block, transformers prints neither progress nor a report."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _misfit(library: str, error: Exception) -> NoReturn:
    """Raise an ExpertError for what a library raises; :class:`ExpertFiles` names the folder."""
    if isinstance(error, ExmlError):
        raise error
    got = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
    expected = f"a classifier of {library} that the weights fit"
    raise ExpertError(expected=expected, got=got, remedy="get the folder again, or update the package") from error
