"""BatchNormStatistics and the recorded activations against NumPy in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from exml.core.errors import ExpertError, SettingError
from exml.priors import BatchNormStatistics, record_activations


class Net(nn.Module):
    """BatchNorm2d twice over the same layer, then BatchNorm1d on vectors."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.BatchNorm1d(3)

    def forward(self, x):
        x = self.first(self.conv(self.first(x)))
        return self.last(x.mean((2, 3)))


@pytest.fixture
def net():
    net = Net().double().eval()
    for part in (net.first, net.last):
        part.running_mean.normal_()
        part.running_var.uniform_(0.5, 2)
    return net


def hooks(module):
    return sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in module.modules())


def distance(activation, statistic="std", reduce=np.sum):
    values = np.moveaxis(activation.input.detach().numpy(), 1, 0).reshape(activation.input.shape[1], -1)
    spread, wanted = values.var(1), activation.running_var.numpy()
    if statistic == "std":
        spread, wanted = np.sqrt(spread), np.sqrt(wanted)
    return reduce((values.mean(1) - activation.running_mean.numpy()) ** 2 + (spread - wanted) ** 2)


@pytest.mark.parametrize("statistic", ["std", "variance"])
@pytest.mark.parametrize(("reduction", "reduce"), [("sum", np.sum), ("mean", np.mean)])
@pytest.mark.parametrize(
    ("layers", "chosen"), [("all", [0, 1, 2]), ("last", [2]), (("first",), [0, 1]), (("last", "first"), [0, 1, 2])]
)
def test_agrees_with_numpy(net, statistic, reduction, reduce, layers, chosen):
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    with record_activations(net) as activations:
        net(x)
        penalty = BatchNormStatistics(0.7, layers, statistic, reduction)(x, activations)
    wanted = 0.7 * sum(distance(activations[index], statistic, reduce) for index in chosen)
    assert penalty.item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d(3), (6, 3)),
        (nn.BatchNorm1d(3), (6, 3, 5)),
        (nn.BatchNorm2d(3), (6, 3, 4, 5)),
        (nn.BatchNorm3d(3), (6, 3, 2, 4, 5)),
    ],
    ids=["1d vectors", "1d sequences", "2d", "3d"],
)
def test_every_kind_of_batch_norm(layer, shape):
    """Images with the statistics of the training data, made by the layer itself, cost nothing."""
    x = torch.randn(shape, dtype=torch.float64)
    layer = layer.double()
    layer.momentum = 1.0
    layer.train()(x)
    layer.running_var *= 1 - shape[1] / x.numel()  # PyTorch keeps the unbiased variance
    with record_activations(layer.eval()) as activations:
        layer(x)
        layer(3 * x)
        penalty = BatchNormStatistics(1.0)(torch.zeros(6, 1, 1, 1), activations)
        assert penalty.item() == pytest.approx(distance(activations[0]), rel=1e-10)
        layer(x)
        penalty = BatchNormStatistics(1.0)(torch.zeros(6, 1, 1, 1), activations)
    assert len(activations) == 1
    assert penalty.item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("statistic", ["std", "variance"])
def test_gradient_is_that_of_the_value(net, statistic):
    def penalty(x):
        with record_activations(net) as activations:
            net(x)
            return BatchNormStatistics(1.0, statistic=statistic)(x, activations)

    assert torch.autograd.gradcheck(penalty, torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True))


def test_gradient_is_finite_where_a_channel_is_constant():
    layer = nn.BatchNorm2d(1).eval()
    x = torch.zeros(4, 1, 3, 3, requires_grad=True)
    with record_activations(layer) as activations:
        layer(x)
        penalty = BatchNormStatistics(1.0)(x, activations)
    penalty.backward()
    assert penalty.item() == pytest.approx(1.0)  # mean 0 as it should be, deviation 0 instead of 1
    assert x.grad.isfinite().all()


def test_unknown_layers_are_named_with_those_there_are(net):
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    with record_activations(net) as activations:
        net(x)
        with pytest.raises(ExpertError, match="'first', 'last', got 'frist'"):
            BatchNormStatistics(1.0, ("frist", "last"))(x, activations)


def test_no_activations_is_an_error():
    with pytest.raises(ExpertError, match="record_activations"):
        BatchNormStatistics(1.0)(torch.zeros(1, 1, 2, 2), ())


@pytest.mark.parametrize("layers", ["first", (), (1,)], ids=repr)
def test_layers_that_are_no_choice(layers):
    with pytest.raises(SettingError, match=r"BatchNormStatistics\.layers"):
        BatchNormStatistics(1.0, layers)


class TestRecordActivations:
    def test_holds_the_last_pass_in_its_order_with_its_graph(self, net):
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
        with record_activations(net) as activations:
            net(torch.randn(7, 3, 4, 4, dtype=torch.float64))
            net(x)
            assert [activation.layer for activation in activations] == ["first", "first", "last"]
            assert torch.equal(activations[0].input, x)
            assert torch.autograd.grad(activations[0].input.sum(), x)[0].eq(1).all()
            assert activations[-1].input.requires_grad

    def test_inputs_that_are_overwritten_later_are_kept(self):
        class Overwrites(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = nn.BatchNorm2d(3)

            def forward(self, x):
                values = x.mul_(2)
                return self.norm(values) + values.zero_()

        net, x = Overwrites().eval(), torch.ones(2, 3, 4, 4, requires_grad=True)
        with record_activations(net) as activations:
            net(x)
            assert activations[0].input.eq(2).all()
            assert torch.autograd.grad(activations[0].input.sum(), x)[0].eq(2).all()
        assert x.eq(1).all()

    def test_leaves_no_hook_behind(self, net):
        with record_activations(net):
            assert hooks(net) > 0
        assert hooks(net) == 0

    def test_leaves_no_hook_behind_after_an_exception(self, net):
        with pytest.raises(RuntimeError, match="running_mean"), record_activations(net):
            net(torch.zeros(2, 5, 4, 4, dtype=torch.float64))
        assert hooks(net) == 0

    def test_two_at_once_do_not_disturb_each_other(self, net):
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
        with record_activations(net) as outer:
            with record_activations(net.last) as inner:
                net(x)
            net(x)
            assert len(outer) == 3
            assert len(inner) == 1

    @pytest.mark.parametrize("module", [nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)], ids=repr)
    def test_there_are_none_without_running_statistics(self, module):
        with record_activations(module) as activations:
            module(torch.zeros(3, 2))
            with pytest.raises(ExpertError, match="remove BatchNormStatistics"):
                BatchNormStatistics(1.0)(torch.zeros(3, 1, 1, 2), activations)
            assert BatchNormStatistics(1.0, absent="ignore")(torch.zeros(3, 1, 1, 2), activations) == 0
