"""Lowered networks against the modules themselves in float64."""

import copy
import linecache

import pytest
import torch
from torch import nn
from torch.fx import graph_module
from torchvision.models import mobilenet_v2, resnet18

from exml.core.activation import batch_norm_layers
from exml.core.errors import ExmlWarning, ExpertError
from exml.engine import lowered, recorded
from exml.engine.lowering import Lowered
from exml.experts import Expert
from exml.generators import ModelInversion
from exml.models import ConvNet, LeNet5, Normalized, SlimResNet18
from exml.priors import BatchNormStatistics, record_activations
from exml.protocols import GenerationContext
from tests.generators.helpers import hooks_of, snapshot_of
from tests.norms import NORMS, network, trained


class PreActivation(nn.Module):
    """A batch-norm layer after an addition, one after a pooling, and a convolution that two things read."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, images):
        x = self.first(images)
        y = self.second(torch.relu(self.bn1(x)))
        y += x
        return self.head(self.bn3(self.bn2(y).relu().mean((2, 3))))


class Twice(nn.Module):
    """One batch-norm layer, called twice, after one convolution and after another."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.bn = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        return self.bn(self.b(self.bn(self.a(images)))).amax((2, 3))


class InPlace(nn.Module):
    """What a folded layer gave would be overwritten."""

    def __init__(self):
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        return torch.relu_(self.bn(self.a(images))).mean((2, 3))


class Branches(nn.Module):
    """Cannot be traced."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, images):
        found = self.net(images).mean((2, 3))
        return found if found.detach().sum() > 0 else 2 * found


class Drawing(nn.Module):
    """Draws a number at each call; a trace would keep the one that it saw."""

    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return torch.rand(()) * self.net(images).mean((2, 3))


class Unseen(nn.Module):
    """Batch-norm layers of which only some are called as modules."""

    def __init__(self, called=1):
        super().__init__()
        self.net, self.called = nn.Conv2d(3, 4, 3), called
        self.norms = nn.ModuleList([nn.BatchNorm2d(4) for _ in range(5)])

    def forward(self, images):
        values = self.norms[0].forward(self.net(images))
        for norm in self.norms[1 : 1 + self.called]:
            values = norm(values)
        return values.mean((2, 3))


MODULES = {
    "lenet5": lambda: LeNet5(3, 10, 32),
    "conv-net": lambda: ConvNet(3, 10, 32),
    "slim-resnet18": lambda: SlimResNet18(width=4),
    "resnet18": lambda: resnet18(num_classes=5),
    "mobilenet-v2": lambda: mobilenet_v2(num_classes=5, width_mult=0.25),
    "normalized": lambda: Normalized(ConvNet(3, 10, 32), (0.5,), (0.25,)),
    "pre-activation": PreActivation,
    "twice": Twice,
    "in place": InPlace,
    "branches": Branches,
    **{name: lambda norm=norm: network(norm(4)) for name, norm in NORMS.items()},
}


def make(name):
    torch.manual_seed(0)
    return trained(MODULES[name]())


def images(size=6):
    return torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def oracle(module, pixels, score):
    """Activations and the pixel gradient of a score of logits and statistics, in float64, with torch.var_mean."""
    module = copy.deepcopy(module).double()
    pixels = pixels.double().requires_grad_()
    with record_activations(module) as activations:
        logits = module(pixels)
        moments = [torch.var_mean(a.input, [0, *range(2, a.input.ndim)], correction=0) for a in activations]
        (gradient,) = torch.autograd.grad(score(logits, moments), pixels)
    return logits.detach(), list(activations), gradient


def score(logits, moments):
    """Every statistic of every layer with a weight of its own."""
    total = logits.square().sum()
    for number, (var, mean) in enumerate(moments, 1):
        total = total + number * ((var + 0.01).sqrt().sum() + mean.square().sum())
    return total


def close(got, wanted, tolerance=2e-4):
    scale = float(wanted.abs().max()) or 1.0
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", MODULES)
def test_logits_activations_and_gradients_are_those_of_the_module(name):
    module, pixels = make(name), images().requires_grad_()
    logits, wanted, gradient = oracle(module, images(), score)
    with lowered(module, images(2)) as fast, torch.no_grad():
        close(fast(pixels), logits)
    with recorded(module, images(2), record=True) as network:
        got, activations = network(pixels)
        close(got, logits)
        assert [a.layer for a in activations] == [a.layer for a in wanted]
        for activation, other in zip(activations, wanted, strict=True):
            close(activation.input, other.input.detach())
            close(activation.running_mean, other.running_mean)
        loss = score(got, [activation.var_mean() for activation in activations])
        close(torch.autograd.grad(loss, pixels, retain_graph=True)[0], gradient)
        # The same by way of the inputs, as a prior of one's own may do it.
        moments = [torch.var_mean(a.input, [0, *range(2, a.input.ndim)], correction=0) for a in activations]
        close(torch.autograd.grad(score(got, moments), pixels)[0], gradient)


def test_what_can_be_lowered_is():
    """Else the other tests would compare modules with themselves."""
    kinds = {}
    for name in MODULES:
        with recorded(make(name), images(2), record=True) as network:
            kinds[name] = isinstance(network, Lowered)
            if isinstance(network, Lowered):
                kinds[name] = kinds[name], len(list(batch_norm_layers(network.graph)))
    assert kinds == {
        "lenet5": (True, 0),
        "conv-net": (True, 0),
        "slim-resnet18": (True, 0),
        "resnet18": (True, 0),
        "mobilenet-v2": (True, 0),
        "normalized": (True, 0),
        "pre-activation": (True, 3),
        "twice": (True, 1),
        "in place": (True, 0),
        "branches": False,
        **dict.fromkeys(NORMS, (True, 1)),
        "overwriting": False,
        "without bias": (True, 0),
    }


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "regnety_002", "densenet121", "resnetv2_50", "ghostnet_050", "tf_efficientnet_b0"]
)
def test_every_layer_of_a_network_of_timm_is_recorded(name):
    module, pixels = trained(pytest.importorskip("timm").create_model(name, num_classes=5)), images(3)
    with recorded(module, images(2), record=True) as network, record_activations(module) as wanted:
        got = network(pixels)[1]
        module(pixels)
        assert [part.layer for part in got] == [part.layer for part in wanted]
        assert {part.layer for part in got} == {layer for layer, _ in batch_norm_layers(module)}
        for part, other in zip(got, wanted, strict=True):
            close(part.input.detach(), other.input.detach().double())


def test_layers_that_are_not_recorded_are_named():
    expected = r"1 of 5 batch-norm layers recorded in expert 'a', without 'norms.0', 'norms.2', 'norms.3', \.\.\.;"
    with pytest.warns(ExmlWarning, match=expected), recorded(Unseen(), images(2), record=True, name="expert 'a'"):
        pass


def test_none_recorded_is_an_error_whatever_the_prior_ignores():
    expert = Expert(Unseen(called=0), range(4), (3, 32, 32), name="a")
    context = GenerationContext(prior=BatchNormStatistics(1.0, absent="ignore"))
    with pytest.raises(ExpertError, match=r"0 of 5 batch-norm layers recorded in expert 'a'"):
        ModelInversion(iterations=1)(expert, 2, 0, context)


@pytest.mark.parametrize("name", MODULES)
def test_the_module_is_left_alone(name):
    module = make(name).train()
    before, hooks = snapshot_of(module), hooks_of(module)

    def interrupted():
        with recorded(module, images(2), record=True) as network:
            network(images())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert snapshot_of(module) == before
    assert hooks_of(module) == hooks == 0


def test_a_layer_that_has_forgotten_its_input_is_not_folded():
    """Weights of nothing are common in trained networks: from such an output there is no way back."""
    module = make("slim-resnet18")
    with torch.no_grad():
        module.stem[1].weight[0] = 0.0
        module.blocks[2].residual[1].weight[1] = 1e-5
    logits, wanted, gradient = oracle(module, images(), score)
    pixels = images().requires_grad_()
    with recorded(module, images(2), record=True) as network:
        assert sum(isinstance(part, nn.BatchNorm2d) for part in network.graph.modules()) == 2
        got, activations = network(pixels)
        close(got, logits)
        loss = score(got, [activation.var_mean() for activation in activations])
        for activation, other in zip(activations, wanted, strict=True):
            close(activation.input, other.input.detach())
        close(torch.autograd.grad(loss, pixels)[0], gradient)


def test_a_module_with_hooks_runs_as_it_is():
    module, seen = make("conv-net"), []
    module.register_forward_hook(lambda *_: seen.append(1))
    with lowered(module, images(2)) as fast:
        fast(images())
    assert seen == [1]


def test_a_copy_with_other_logits_is_not_used():
    module = Drawing().eval()
    with lowered(module, images(2)) as fast:
        assert not torch.equal(fast(images()), fast(images()))


def test_float64_is_lowered_too():
    module = make("conv-net").double()
    with lowered(module, images(2).double()) as fast:
        assert fast is not module
        torch.testing.assert_close(fast(images().double()), module(images().double()), rtol=1e-9, atol=1e-9)


def test_nothing_is_left_in_the_caches_of_the_tracer():
    module = make("conv-net")
    held = len(linecache.cache), len(graph_module._loader.eval_cache)
    for _ in range(3):
        with lowered(module, images(2)), recorded(module, images(2), record=True):
            pass
    assert (len(linecache.cache), len(graph_module._loader.eval_cache)) == held


def test_no_activation_is_kept_twice_for_the_backward_pass():
    """A gate on memory that noise cannot touch: bytes that autograd keeps, each storage once."""

    def kept(run):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            alive = run()
        del alive
        return sum(storages.values())

    module, pixels = make("slim-resnet18").requires_grad_(False), images(32).requires_grad_()
    plain = kept(lambda: module(pixels))
    with recorded(module, images(2), record=True) as network:
        ours = kept(lambda: network(pixels))
    assert ours <= 0.8 * plain
