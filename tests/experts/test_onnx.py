"""ONNX files: facts of the file, the logits of ONNX Runtime, gradients, and every batch size."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

import exml
from exml.core.errors import ExmlError, ExpertError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx2fx")
runtime = pytest.importorskip("onnxruntime")
LABELS = ["cat", "dog", "owl"]
helper = onnx.helper


class Net(nn.Module):
    """A network whose graph has a reshape to a declared size of the batch, if there is one."""

    def __init__(self, channels=3, probabilities=False):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
        )
        self.head = nn.Linear(16, 3)
        self.probabilities = probabilities
        self.eval()

    def forward(self, images):
        logits = self.head(self.features(images).flatten(1))
        return logits.softmax(1) if self.probabilities else logits


class Last(Net):
    """Takes ``(batch, height, width, channels)``, as exports of Keras do."""

    def forward(self, images):
        return super().forward(images.permute(0, 3, 1, 2))


def export(path, module=None, shape=(3, 8, 8), free=True, metadata=None, external=False):
    module = Net() if module is None else module
    dynamic = ({0: torch.export.Dim("batch")},) if free else None
    images = torch.rand(2 if free else 1, *shape)
    program = torch.onnx.export(module, (images,), dynamic_shapes=dynamic, verbose=False)
    program.model.metadata_props.update(metadata or {})
    program.save(path, external_data=external)
    return module


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize(
    ("free", "module", "external"), [(True, Net, True), (False, Net, False), (True, Last, False), (False, Last, False)]
)
def test_logits_and_gradients_are_those_of_the_module(free, module, external, tmp_path):
    module = module()
    shape = (8, 8, 3) if isinstance(module, Last) else (3, 8, 8)
    export(tmp_path / "pets.onnx", module, shape, free, external=external)
    expert = exml.load(tmp_path / "pets.onnx", labels=LABELS)
    assert (expert.name, expert.image_shape, expert.outputs) == ("pets", (3, 8, 8), (0, 1, 2))
    images = torch.rand(5, 3, 8, 8, requires_grad=True)
    wanted = Net.forward(module, images)
    assert torch.allclose(expert.logits(images), wanted, atol=1e-5)
    (gradient,), (theirs,) = (torch.autograd.grad(out[:, 1].sum(), images) for out in (expert.logits(images), wanted))
    assert torch.allclose(gradient, theirs, atol=1e-5)
    expert.check(3)


@pytest.mark.parametrize(
    ("metadata", "labels"),
    [
        ({"labels": json.dumps(LABELS)}, LABELS),
        ({"id2label": json.dumps(dict(enumerate(LABELS)))}, LABELS),
        ({"names": str(dict(enumerate(LABELS))), "task": "classify"}, LABELS),
        ({"exml.labels": json.dumps(LABELS), "exml.image_shape": "[3, 8, 8]", "labels": '["x"]'}, LABELS),
        ({"names": "__import__('os')", "labels": "{"}, None),
    ],
)
def test_labels_are_read_from_the_metadata(metadata, labels, tmp_path):
    export(tmp_path / "pets.onnx", metadata=metadata)
    card = exml.experts.read_card(tmp_path / "pets.onnx")
    assert (card.labels, card.classes) == (labels and tuple(labels), (0, 1, 2))


def test_a_softmax_at_the_end_is_removed(tmp_path):
    module = export(tmp_path / "pets.onnx", Net(probabilities=True))
    images = torch.rand(2, 3, 8, 8)
    expert = exml.load(tmp_path / "pets.onnx", labels=LABELS)
    assert torch.allclose(expert.logits(images).softmax(1), module(images), atol=1e-5)
    expert.check(3)


def model(nodes, kind=onnx.TensorProto.FLOAT, shape=("n", 1, 2, 2), outputs=(("logits", ["n", 4]),), weights=()):
    """A small model from nodes."""
    inputs = [helper.make_tensor_value_info("images", kind, shape)]
    results = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size) for name, size in outputs]
    graph = helper.make_graph(nodes, "graph", inputs, results, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


FLATTEN = helper.make_node("Flatten", ["images"], ["logits"])


def _far():
    tensor = onnx.numpy_helper.from_array(np.zeros((1, 1, 2, 2), np.float32), "zeros")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    nodes = [helper.make_node("Add", ["images", "zeros"], ["sum"]), helper.make_node("Flatten", ["sum"], ["logits"])]
    return model(nodes, weights=[tensor])


FAULTY = {
    "expected one output of float32 logits": lambda: model(
        [helper.make_node("Flatten", ["images"], ["first"]), helper.make_node("Relu", ["first"], ["second"])],
        outputs=(("first", ["n", 4]), ("second", ["n", 4])),
    ),
    "one input of float32 images": lambda: model(
        [
            helper.make_node("Cast", ["images"], ["float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Flatten", ["float"], ["logits"]),
        ],
        onnx.TensorProto.UINT8,
    ),
    "one input": lambda: model([FLATTEN], shape=("n", 4)),
    "4 outputs": lambda: model([FLATTEN]),
    "as .*pets.onnx takes": lambda: model([FLATTEN], shape=("n", 1, 2, 3), outputs=(("logits", ["n", 3]),)),
    "operations of PyTorch": _far,
    "an ONNX model": lambda: model([helper.make_node("Nonesuch", ["images"], ["logits"])]),
}


@pytest.mark.parametrize("message", FAULTY)
def test_a_faulty_model_is_one_error(message, tmp_path):
    faulty = FAULTY[message]()
    (tmp_path / "pets.onnx").write_bytes(faulty.SerializeToString())
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    labels = list("abc") if message == "4 outputs" else None
    card = {"image_shape": (1, 2, 2)} if "takes" in message else {}
    with pytest.raises(ExpertError, match=message) as raised:
        exml.load(tmp_path / "pets.onnx", **card, **({"labels": labels} if labels else {}))
    assert "pets" in str(raised.value)


@pytest.mark.parametrize("data", [b"", b"\x08\x07", b"junk" * 100])
def test_damaged_files_are_one_error(data, tmp_path):
    (tmp_path / "pets.onnx").write_bytes(data)
    with pytest.raises(ExpertError, match=r"pets\.onnx"):
        exml.load(tmp_path / "pets.onnx", labels=LABELS)


@pytest.mark.parametrize("name", ["onnx", "onnx2fx", "onnxruntime"])
def test_an_absent_package_is_named_with_its_extra(name, tmp_path, monkeypatch):
    export(tmp_path / "pets.onnx")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExmlError, match=r'pip install "exml\[onnx\]"'):
        exml.load(tmp_path / "pets.onnx", labels=LABELS)


def test_free_sizes_of_images_come_from_the_card(tmp_path):
    pool = helper.make_node("GlobalAveragePool", ["images"], ["mean"])
    nodes = [pool, helper.make_node("Flatten", ["mean"], ["logits"])]
    made = model(nodes, shape=("n", 3, "h", "w"), outputs=(("logits", ["n", 3]),))
    (tmp_path / "pets.onnx").write_bytes(made.SerializeToString())
    (tmp_path / "pets.yaml").write_text("labels: [cat, dog, owl]\nimage_shape: [3, 6, 4]\nmean: [0.5]\n")
    expert = exml.load(tmp_path / "pets.onnx")
    pixels = torch.rand(2, 3, 6, 4)
    assert torch.allclose(expert.logits(pixels), pixels.mean((2, 3)) - 0.5, atol=1e-6)
    (tmp_path / "pets.yaml").unlink()
    with pytest.raises(ExpertError, match="no image_shape"):
        exml.load(tmp_path / "pets.onnx", labels=LABELS)
