"""Param. Avg.: the mean of every weight, in float64, or a clear refusal."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from exml.baselines import ParameterAverage
from exml.core.errors import BaselineError, StreamError
from exml.experts import Expert, ExpertStream
from exml.models import ConvNet


def make(seed: int, classes: tuple[int, ...] = (0, 1), width: int = 3, **changes: Any) -> Expert:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = ConvNet(1, 5, 4, widths=(width,))
        for tensor in module.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) * 3 if tensor.is_floating_point() else torch.tensor(seed + 7))
    fields: dict[str, Any] = {"outputs": (0, 1, 2, None, 3), "mean": (0.5,), "std": (0.25,), **changes}
    return Expert(module, classes, (1, 4, 4), **fields)


def test_it_is_the_network_of_the_mean_weights_and_statistics() -> None:
    experts = [make(0), make(1, (1, 2)), make(2, (3,))]
    states = [copy.deepcopy(expert.module).double().state_dict() for expert in experts]
    mean = ConvNet(1, 5, 4, widths=(3,)).double()
    mean.load_state_dict(
        {
            name: sum(state[name] for state in states) / 3 if tensor.is_floating_point() else tensor
            for name, tensor in states[0].items()
        }
    )
    images = torch.rand(6, 1, 4, 4)
    scores = ParameterAverage()(ExpertStream.from_experts(experts), 6)(images, None)
    logits = mean.eval()((images.double() - 0.5) / 0.25).float()
    unknown = torch.full((6, 1), -torch.inf)
    expected = torch.cat([logits[:, :3], logits[:, 4:], unknown, unknown], 1)
    torch.testing.assert_close(scores, expected)


def test_many_experts_are_summed_without_loss() -> None:
    """0.1 summed a thousand times in float32 is 99.999; the mean must be 0.1 to float32's last bit."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(1, 1))
    module[1].weight.data.fill_(0.1)
    module[1].bias.data.fill_(0.7)
    expert = Expert(module, (0,), (1, 1, 1))
    predict = ParameterAverage()(ExpertStream([lambda: expert] * 1000), 1)
    pixels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    assert torch.equal(predict(pixels, None), module(pixels))


def test_it_takes_one_pass_and_two_models_and_then_needs_no_expert() -> None:
    alive: list[weakref.ref[nn.Module]] = []
    most = 0

    def load(seed: int) -> Expert:
        nonlocal most
        expert = make(seed)
        alive.append(weakref.ref(expert.module))
        gc.collect()
        most = max(most, sum(module() is not None for module in alive))
        return expert

    predict = ParameterAverage()(ExpertStream([lambda seed=seed: load(seed) for seed in range(6)]), 4)
    predict(torch.rand(2, 1, 4, 4), None)
    assert len(alive) == 6
    assert most == 1


def test_the_experts_are_left_as_they_were() -> None:
    experts = [make(0), make(1)]
    before = [expert.fingerprint() for expert in experts]
    ParameterAverage()(ExpertStream.from_experts(experts), 4)(torch.rand(2, 1, 4, 4), None)
    assert [expert.fingerprint() for expert in experts] == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make(1, width=4), r"features\.0\.weight \(3, 1, 3, 3\).*\(4, 1, 3, 3\)"),
        (
            attrs.evolve(make(1), module=ConvNet(1, 5, 4, (3,), batch_norm=False)),
            r"features\.1\.weight \(3,\), got absent",
        ),
        (attrs.evolve(make(1), module=nn.Sequential(make(1).module)), r"features\.0\.weight .* got absent"),
        (make(1, (0, 7), outputs=(0, 1, 2, None, 7)), "outputs"),
        (make(1, mean=(0.4,)), "mean"),
        (make(1, std=(0.4,)), "std"),
        (attrs.evolve(make(1), image_shape=(1, 5, 5)), "image_shape"),
    ],
)
def test_experts_that_cannot_be_averaged_are_refused_by_name(other: Expert, message: str) -> None:
    with pytest.raises(BaselineError, match=message):
        ParameterAverage()(ExpertStream.from_experts([make(0), other]), 8)


def test_an_architecture_with_more_weights_is_refused() -> None:
    small, large = (
        nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False)),
        nn.Sequential(nn.Flatten(), nn.Linear(1, 1)),
    )
    experts = [Expert(module, (0,), (1, 1, 1)) for module in (small, large)]
    with pytest.raises(BaselineError, match=r"1\.bias absent"):
        ParameterAverage()(ExpertStream.from_experts(experts), 1)


def test_an_empty_stream_is_a_typed_error() -> None:
    with pytest.raises(StreamError):
        ParameterAverage()(ExpertStream([]), 1)
