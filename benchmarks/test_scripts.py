"""What the scripts time is what they say: all forms of a step compute the same, and every row has its n and spread."""

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import ratios
import torch

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
import one_pass

from exml.engine import Execution

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("measure", "row"),
    [
        (ratios.inversion, "inversion lenet5 512x1x32x32"),
        (ratios.distillation, "distillation slim-resnet18 32x3x32x32"),
    ],
)
def test_steps_are_compared_in_pairs(monkeypatch, device, measure, row):
    monkeypatch.setattr(ratios, "WARM_UP", 1)
    found = measure(row, device, 3, Execution())
    assert found["n"] == 3
    assert 0 < found["spread"][0] <= found["ratio"] <= found["spread"][1]
    assert found["bare_form"] in found["bare_forms_ms"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("row", ratios.INVERSIONS)
def test_every_form_of_the_bare_inversion_has_the_same_gradient(device, row):
    model, shape, _, _ = ratios.INVERSIONS[row]
    network = ratios.trained_like(model()).to(device).eval().requires_grad_(False)
    with ExitStack() as stack:
        forms = ratios.bare_inversions(network, torch.randn(4, *shape[1:], device=device), stack)
        gradients = [step() for step in forms.values()]
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-2, atol=1e-2 * float(gradients[0].abs().max()))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # pooling has no rule for several networks at once
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", one_pass.CASES)
def test_five_experts_in_one_pass_or_one_by_one(monkeypatch, device, model):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    networks = one_pass.experts(model, torch.device(device))
    images = torch.randn(4, *one_pass.CASES[model][1][1:], device=device)
    with ExitStack() as stack:
        logits = {name: form().double() for name, form in one_pass.versions(networks, images, stack).items()}
    with torch.no_grad():
        wanted = torch.stack([network.double()(images.double()) for network in networks])
    scale = wanted.abs().max()
    for found in logits.values():
        torch.testing.assert_close(found / scale, wanted / scale, rtol=1e-3, atol=1e-4)
