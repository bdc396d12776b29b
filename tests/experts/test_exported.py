"""Programs of torch.export and TorchScript: only with trust, at any batch size, with gradients and batch norm."""

import copy
import json
import zipfile

import pytest
import torch
from torch import nn

import exml
from exml.core.activation import record_activations
from exml.core.errors import ExpertError

LABELS = ["cat", "dog", "owl"]
SHAPE = (2, 8, 8)


class Net(nn.Module):
    """A network that may reshape to the size of the batch that it was exported with."""

    def __init__(self, fixed):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.head = nn.Linear(16, 3)
        self.fixed = fixed
        self.features[1].running_mean.normal_()
        self.eval()

    def forward(self, images):
        features = self.features(images)
        return self.head(features.reshape(2, 16) if self.fixed else features.flatten(1))


def export(path, module, free, extra=None):
    dynamic = ({0: torch.export.Dim("batch")},) if free else None
    program = torch.export.export(module, (torch.rand(2, *SHAPE),), dynamic_shapes=dynamic)
    torch.export.save(program, path, extra_files=extra)


@pytest.mark.parametrize(("free", "fixed"), [(True, False), (False, False), (False, True)])
def test_logits_and_gradients_are_those_of_the_module(free, fixed, tmp_path):
    module = Net(fixed)
    export(tmp_path / "pets.pt2", module, free)
    expert = exml.load(tmp_path / "pets.pt2", labels=LABELS, trust=True)
    assert (expert.image_shape, expert.module.batch) == (SHAPE, 2 if fixed else None)
    module.fixed = False
    for count in (1, 2, 5):
        images = torch.rand(count, *SHAPE, requires_grad=True)
        wanted = module(images)
        assert torch.allclose(expert.logits(images), wanted, atol=1e-6)
        pairs = [torch.autograd.grad(logits[:, 1].sum(), images)[0] for logits in (expert.logits(images), wanted)]
        assert torch.allclose(*pairs, atol=1e-6)
    expert.check(3)
    copied = copy.deepcopy(expert.module)
    with record_activations(copied) as activations, torch.no_grad():
        copied(images)
    assert len(activations) == (0 if fixed else 1)
    if not fixed:
        assert torch.equal(activations[0].running_mean, module.features[1].running_mean)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("suffix", ["ts", "pt"])
def test_torchscript_needs_a_card(suffix, tmp_path):
    module = Net(False)
    path = tmp_path / f"pets.{suffix}"
    torch.jit.save(torch.jit.trace(module, torch.rand(2, *SHAPE)), path)
    with pytest.raises(ExpertError, match=r"no labels.* and no image_shape"):
        exml.load(path, trust=True)
    expert = exml.load(path, labels=LABELS, image_shape=SHAPE, trust=True)
    images = torch.rand(5, *SHAPE)
    assert torch.allclose(expert.logits(images), module(images), atol=1e-6)
    assert expert.differentiable


def test_without_trust_nothing_is_loaded_but_facts(tmp_path):
    facts = {"exml.labels": json.dumps(LABELS), "exml.image_shape": json.dumps(SHAPE)}
    export(tmp_path / "pets.pt2", Net(False), True, {"exml.json": json.dumps(facts)})
    card = exml.experts.read_card(tmp_path / "pets.pt2")
    assert (card.labels, card.image_shape) == (tuple(LABELS), SHAPE)
    with pytest.raises(ExpertError, match=r"executes code.*trust=True or --trust"):
        exml.load(tmp_path / "pets.pt2")
    with pytest.raises(ExpertError, match=r"3 outputs.*a card of 2"):
        exml.load(tmp_path / "pets.pt2", labels=["cat", "dog"], trust=True)


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_damaged_programs_are_one_error(keep, tmp_path):
    path = tmp_path / "pets.pt2"
    export(path, Net(False), True)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ExpertError, match=r"pets\.pt2"):
        exml.load(path, labels=LABELS, image_shape=SHAPE, trust=True)


def test_an_archive_of_something_else_is_one_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "pets.pt2", "w") as archive:
        archive.writestr("a/models/model.json", "{}")
    with pytest.raises(ExpertError, match=r"pets\.pt2"):
        exml.load(tmp_path / "pets.pt2", labels=LABELS, image_shape=SHAPE, trust=True)
