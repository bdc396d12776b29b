"""What is counted, against arithmetic and against the tensors themselves."""

import attrs
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import exml
from exml.buffers import Cumulative
from exml.costs import CostModel, DistillationRates, GenerationRates, Rates, count
from exml.costs._tally import tally
from exml.engine import Training
from exml.generators import DataImpression, GaussianNoise, Mixture, ModelInversion
from exml.models import SlimResNet18
from exml.priors import BatchNormStatistics
from exml.protocols import GenerationContext
from tests import tiny


def net(classes=4, width=5, size=6):
    return nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * size**2, classes),
    )


def expert(module=None, size=6):
    return exml.Expert(module or net(size=size), (0, 1), (2, size, size), outputs=range(4))


def forward_flops(classes=4, width=5, size=6):
    """A multiplication and an addition for each weight and each place it is used at."""
    return 2 * (width * size**2) * (2 * 9) + 2 * (width * size**2) * classes


@pytest.mark.parametrize("size", [6, 12])
def test_operations_of_a_known_network(size):
    student = net(size=size, width=3)
    sizes = count(tiny.inversion(prior=BatchNormStatistics(1.0)), expert(size=size), student)
    ours = forward_flops(size=size)
    assert sizes.expert_flops == ours
    assert sizes.student_flops == forward_flops(size=size, width=3)
    # Backward, the weights' gradient costs as much as the forward pass, and so does the input's but at the first layer.
    first = 2 * (3 * size**2) * (2 * 9)
    assert sizes.training_flops == 3 * sizes.student_flops - first
    (generation,) = sizes.generation
    # Of inversion only the input's gradient is asked for, down to the pixels; no weight has one.
    assert generation.step_flops == 2 * ours
    assert sizes.view_flops(1) == ours
    assert sizes.view_flops(2) == ours + sizes.student_flops


def test_bytes_of_models_and_images():
    student = net(width=3)
    student[0].requires_grad_(False)
    sizes = count(tiny.strategy(), expert(), student)
    assert sizes.image == 2 * 6 * 6 * 4
    assert sizes.student == sum(tensor.nbytes for tensor in student.state_dict().values())
    assert sizes.parameters == 4 * (2 * 3 + (3 * 36 + 1) * 4)
    assert (sizes.norms, sizes.norm_channels, sizes.expert_channels) == (1, 3, 5)
    samples = exml.Samples.of(torch.zeros(10, 2, 6, 6), torch.zeros(10, dtype=torch.long))
    assert 10 * sizes.sample == sum(tensor.nbytes for tensor in samples.state().values())


def test_soft_targets_are_counted_where_all_parts_give_them():
    soft, hard = DataImpression(iterations=2), GaussianNoise()
    sizes = [
        count(tiny.strategy(generator=generator), expert(), net()).sample
        for generator in (soft, hard, Mixture((soft, hard)))
    ]
    assert sizes == [288 + 24 + 4 * 4, 288 + 24, 288 + 24]


def test_the_most_that_is_held_at_one_time():
    def several():
        kept = [torch.zeros(100) for _ in range(3)]
        kept.pop()
        return [*kept, torch.zeros(50)]

    assert peak(several) == 3 * 400
    before = torch.zeros(1000)
    assert peak(lambda: before.view(10, 100).add_(1)) == 0
    assert peak(lambda: before[:10] + 1) == 40


def test_operations_are_those_that_pytorch_counts():
    module, images = SlimResNet18(width=2), torch.rand(3, 3, 16, 16)

    def train():
        module(images).sum().backward()

    with FlopCounterMode(display=False) as counter:
        train()
    assert tally(train).flops == counter.get_total_flops() > 0


def test_what_a_backward_pass_keeps_is_held():
    weight = torch.ones(100, 100, requires_grad=True)

    def run(layers):
        values = torch.ones(50, 100)
        for _ in range(layers):
            values = (values @ weight).tanh()  # keeps its result
        values.sum().backward()
        weight.grad = None

    assert peak(lambda: run(7)) - peak(lambda: run(4)) == 3 * 50 * 100 * 4


def test_memory_of_a_mini_batch_is_a_line():
    """What the model foresees for more images than were counted."""
    strategy = tiny.inversion(prior=BatchNormStatistics(1.0))
    ours = expert()
    (generation,) = count(strategy, ours, net()).generation

    context = GenerationContext(prior=strategy.prior)
    found = peak(lambda: attrs.evolve(strategy.generator, batch_size=40)(ours, 40, 0, context))
    assert generation.memory(40) == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("student", ["continue", "reset"])
@pytest.mark.parametrize("views", [0, 2])
def test_the_peak_of_an_experience_is_foreseen(views, student):
    """Of a real second experience, against the tensors that it makes; those that are there before are the models."""
    training = Training(iterations=3, batch_size=32, learning_rate=0.01, optimizer="adam", views=views)
    strategy = tiny.inversion(
        buffer=Cumulative(200), training=training, prior=BatchNormStatistics(1.0), student=student
    )
    strategy = attrs.evolve(strategy, generator=ModelInversion(iterations=2, batch_size=16))
    pupil = net(width=8)
    sizes = count(strategy, expert(), pupil)
    learner = exml.Learner(strategy, pupil)
    learner.learn(expert())
    model = CostModel(strategy, nothing(), sizes)
    memory = model.memory(100, 200, 200, 2)
    found = peak(lambda: learner.learn(expert()))
    before = 200 * sizes.sample  # there already, until the buffer is updated
    foreseen = max(memory.generation - before, memory.update - before, memory.distillation)
    assert foreseen == pytest.approx(found, rel=0.15)


def peak(run):
    return tally(run).peak


def nothing():
    return Rates((GenerationRates(),), DistillationRates(), DistillationRates())
