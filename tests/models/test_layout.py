"""Channels last inside the block, as before outside it, for weights and the optimizer's tensors."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from exml.models import SlimResNet18, channels_last


def step(module, optimizer, dtype=torch.float32):
    optimizer.zero_grad()
    module(torch.ones(2, 3, 8, 8, dtype=dtype)).sum().backward()
    optimizer.step()


def test_weights_gradients_and_momentum_follow():
    module = SlimResNet18(width=8)
    optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)
    step(module, optimizer)
    kernel = module.blocks[0].residual[0].weight
    with channels_last(module, optimizer):
        step(module, optimizer)
        for tensor in (kernel, kernel.grad, optimizer.state[kernel]["momentum_buffer"]):
            assert tensor.is_contiguous(memory_format=torch.channels_last)
            assert not tensor.is_contiguous()
    for parameter in module.parameters():
        assert parameter.is_contiguous()
        assert optimizer.state[parameter]["momentum_buffer"].is_contiguous()


def test_it_is_put_back_after_an_error():
    module = nn.Conv2d(3, 4, 3)
    with pytest.raises(KeyboardInterrupt), channels_last(module, torch.optim.SGD(module.parameters(), 0.1)):
        raise KeyboardInterrupt
    assert module.weight.is_contiguous()


def test_float64_is_contiguous():
    module = nn.Conv2d(3, 4, 3).double()
    with channels_last(module, torch.optim.SGD(module.parameters(), 0.1)):
        assert module.weight.is_contiguous()


@pytest.mark.parametrize("before", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("width", "last"), [(4, False), (7, False), (8, True)])
def test_a_narrow_strided_shortcut_is_contiguous(width, last, before):
    """oneDNN writes past the gradient of its weights on CPUs without AVX-512."""
    module = nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, 16, 1, stride=2)).to(memory_format=before)
    with channels_last(module, torch.optim.SGD(module.parameters(), 0.1)):
        assert module[0].weight.is_contiguous() is not last
    assert module[0].weight.is_contiguous()


def test_training_a_narrow_shortcut_breaks_no_memory():
    """In a process of its own: the allocator ends a process whose memory is broken."""
    code = """
import torch
from exml.models import SlimResNet18, channels_last
torch.set_num_threads(1)
module = SlimResNet18(width=4)
with channels_last(module, torch.optim.SGD(module.parameters(), 0.1)):
    for _ in range(20):
        module(torch.rand(12, 3, 8, 8)).sum().backward()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
