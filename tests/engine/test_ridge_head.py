"""The student's last layer in closed form, and batch norm with running statistics."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import exml
from exml.combiners import SideBySide
from exml.core.errors import SettingError
from exml.core.targets import Target
from exml.engine import PreviousStudent, Teachers, Training, ridge_head
from exml.engine._ridge_head import solve_ridge_head
from exml.losses import MeanSquaredError
from exml.normalizers import RawLogits
from tests.engine.helpers import distilled
from tests.norms import NORMS, network

SHAPE = (1, 4, 4)


def linear(seed, outputs=3, *, bias=True):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, outputs, bias=bias))


def targets_of(rows, defined):
    logits = torch.randn(rows, 3, generator=torch.Generator().manual_seed(5))
    return Target(logits * defined, defined, torch.ones_like(defined))


def by_numpy(features, wanted, ridge, *, bias):
    """Ridge regression as ordinary least squares with rows added, by another library."""
    features, wanted = features.double().numpy(), wanted.double().numpy()
    centre = features.mean(0) if bias else np.zeros(features.shape[1])
    mean = wanted.mean() if bias else 0.0
    centred = features - centre
    root = np.sqrt(ridge * (centred**2).sum(0).mean())
    rows = np.vstack([centred, root * np.eye(features.shape[1])])
    weight = np.linalg.lstsq(rows, np.concatenate([wanted - mean, np.zeros(features.shape[1])]), rcond=None)[0]
    return weight, mean - centre @ weight


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ridge", [1e-6, 0.5])
def test_each_class_is_regressed_on_the_images_that_define_it(bias, ridge):
    """Class 1 has other images than class 0, and class 2 has none: its row stays."""
    net, images = linear(0, bias=bias), torch.rand(40, *SHAPE)
    before = copy.deepcopy(net[3].state_dict())
    defined = torch.stack([torch.arange(40) < 30, torch.arange(40) >= 10, torch.zeros(40, dtype=torch.bool)], 1)
    target = targets_of(40, defined)
    cut = [slice(0, 7), slice(7, 40)]
    parts = [(images[rows], Target(target.logits[rows], defined[rows], target.candidates[rows])) for rows in cut]
    assert solve_ridge_head(net, parts, 3, ridge) is net[3]
    features = net[:3](images).detach()
    for unit in (0, 1):
        rows = defined[:, unit]
        weight, offset = by_numpy(features[rows], target.logits[rows, unit], ridge, bias=bias)
        np.testing.assert_allclose(net[3].weight[unit].detach(), weight, rtol=2e-4, atol=2e-5)
        if bias:
            assert net[3].bias[unit].item() == pytest.approx(offset, rel=1e-4, abs=1e-5)
    for name, values in net[3].state_dict().items():
        assert torch.equal(values[2], before[name][2])


def test_features_that_never_change_give_the_mean():
    net = linear(0)
    nn.init.zeros_(net[1].weight)
    target = targets_of(8, torch.ones(8, 3, dtype=torch.bool))
    solve_ridge_head(net, [(torch.rand(8, *SHAPE), target)], 3, 0.01)
    torch.testing.assert_close(net(torch.rand(1, *SHAPE))[0], target.logits.mean(0))


def test_the_layer_is_found_by_its_output():
    """Not the last one that is defined, nor the last one of that width."""

    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.answer, self.flat, self.first = nn.Linear(3, 3), nn.Flatten(), nn.Linear(16, 3)

        def forward(self, images):
            return self.answer(self.first(self.flat(images)).relu())

    net = Crossed()
    first = net.first.weight.clone()
    target = targets_of(20, torch.ones(20, 3, dtype=torch.bool))
    assert solve_ridge_head(net, [(torch.rand(20, *SHAPE), target)], 3, 0.1) is net.answer
    assert torch.equal(net.first.weight, first)


def run(student, *, start=0, iterations=1, learning_rate=1e-12, losses=None, **settings):
    known = torch.tensor([True, True, False])
    training = Training(iterations, 8, learning_rate, **settings)
    teacher, other = linear(1).eval(), linear(2).eval()
    expert = exml.Expert(other, (2,), SHAPE, outputs=range(3))
    teachers = Teachers(PreviousStudent(teacher, known, known), expert, RawLogits(), SideBySide(), 3)
    memory = exml.Samples.of(torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(3)), torch.zeros(64).long())

    def after_step(done, loss):
        if losses is not None:
            losses.append(loss.item())

    return distilled(
        student, teachers, memory, training, loss=MeanSquaredError("seen"), start=start, after_step=after_step
    )


@pytest.mark.parametrize("views", [0, 2])
def test_what_a_linear_layer_can_compute_is_learned_before_the_first_step(views):
    """The student has the previous student's features, so its two classes are exact; the other is as good as can be."""
    torch.manual_seed(0)
    losses, kept = [], []
    student = linear(1)
    nn.init.normal_(student[3].weight)
    run(copy.deepcopy(student), losses=kept, views=views)
    run(student, losses=losses, ridge=1e-9, views=views)
    assert losses[0] < 0.1 * kept[0]
    images = torch.rand(5, *SHAPE)
    torch.testing.assert_close(student(images)[:, :2], linear(1)(images)[:, :2], rtol=1e-3, atol=1e-3)


def test_a_resumed_run_does_not_solve_again():
    student = linear(4)
    before = student[3].weight.clone()
    run(student, start=1, iterations=2, ridge=0.1)
    torch.testing.assert_close(student[3].weight, before)


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
@pytest.mark.parametrize("norm", ["plain", "activated", "functional", "sync", "own", "instance"])
def test_running_statistics_stay_where_they_are_to_stay(norm, batch_norm):
    torch.manual_seed(0)
    student = network({"plain": nn.BatchNorm2d, **NORMS}[norm](4), 1, 3)
    student[1].running_mean.normal_()
    before = copy.deepcopy(student.state_dict())
    run(student, iterations=3, learning_rate=0.1, batch_norm=batch_norm)
    after = student.state_dict()
    assert torch.equal(before["1.running_mean"], after["1.running_mean"]) == (batch_norm == "running")
    assert not torch.equal(before["0.weight"], after["0.weight"])


def test_a_layer_whose_output_changes_in_place_is_not_the_last():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = linear(0)

        def forward(self, images):
            return self.head(images).div_(2.0)

    with pytest.raises(SettingError, match=r"ends in an nn\.Linear"):
        ridge_head(Scaled(), torch.rand(2, *SHAPE), 3)


def test_a_student_without_such_a_layer_is_refused_before_any_work():
    head = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    expert = exml.Expert(head, (0, 1), SHAPE, outputs=range(3))
    strategy = (
        exml.recipes.noise(exml.ExpertProfile.from_experts([expert]))
        .training(exml.Training(iterations=1, batch_size=4, learning_rate=0.1, ridge=0.1))
        .buffer(exml.buffers.Cumulative(8))
        .build()
    )
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Tanh())
    learner = exml.Learner(strategy, student)
    with pytest.raises(SettingError, match=r"ends in an nn.Linear with 3 outputs.*Sequential"):
        learner.learn(expert)
    assert learner.experience == 0
