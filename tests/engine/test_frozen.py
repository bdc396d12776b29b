"""A frozen network computes as in evaluation and is, afterwards, exactly what it was."""

import pytest
import torch
from torch import nn

from exml.engine import frozen


@pytest.fixture
def net():
    """In training mode but for one layer, with one weight that is not to be trained."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, 3))
    net[1].eval()
    net[4].bias.requires_grad_(False)
    return net


def snapshot(net):
    return (
        [part.training for part in net.modules()],
        [weight.requires_grad for weight in net.parameters()],
        {name: tensor.clone() for name, tensor in net.state_dict().items()},
    )


def assert_same(net, before):
    modes, wanted, tensors = before
    assert [part.training for part in net.modules()] == modes
    assert [weight.requires_grad for weight in net.parameters()] == wanted
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in net.state_dict().items())


def test_inside_nothing_is_random_and_no_weight_gets_a_gradient(net):
    net[1].train()
    images = torch.randn(4, 1, 6, 6, requires_grad=True)
    with frozen(net) as same:
        assert same is net
        first, second = net(images), net(images)
        first.sum().backward()
    assert torch.equal(first, second)
    assert images.grad is not None
    assert all(weight.grad is None for weight in net.parameters())


def test_afterwards_modes_flags_and_statistics_are_as_before(net):
    before = snapshot(net)
    with frozen(net):
        net(torch.randn(4, 1, 6, 6))
        assert not any(part.training for part in net.modules())
    assert_same(net, before)


def test_buffers_that_change_in_evaluation_mode_are_restored(net):
    """Here a module with batch norm that normalizes by the batch in every mode."""
    before = snapshot(net)
    with frozen(net):
        net[1].train()
        images = torch.randn(4, 1, 6, 6, requires_grad=True)
        logits = net(images)
        assert net[1].num_batches_tracked == 1
    assert_same(net, before)
    logits.sum().backward()
    assert images.grad is not None


def test_also_after_an_exception(net):
    before = snapshot(net)
    with pytest.raises(RuntimeError), frozen(net):
        net(torch.randn(4, 2, 6, 6))
    assert_same(net, before)


def test_also_nested(net):
    before = snapshot(net)
    with frozen(net), frozen(net):
        pass
    assert_same(net, before)
