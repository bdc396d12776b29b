"""The losses against NumPy and scipy in float64, and against PyTorch on cut-down logits."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch.nn import functional

from exml.core.errors import SettingError
from exml.core.targets import Target
from exml.losses import CrossEntropy, Distillation, KLDivergence, MeanSquaredError, Sum, Weighted

LOSSES = [
    MeanSquaredError(),
    MeanSquaredError("all"),
    CrossEntropy(),
    CrossEntropy("all"),
    KLDivergence(3.0),
    Distillation(0.5),
    Sum((MeanSquaredError(), Weighted(CrossEntropy(), 0.5))),
    Weighted(KLDivergence(), 2.0),
]
ROWS, CLASSES = 4, 5
LABELS = torch.tensor([0, 1, 4, 3])


@pytest.fixture
def student():
    return 2 * torch.randn(ROWS, CLASSES, dtype=torch.float64)


@pytest.fixture
def target():
    defined = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
    candidates = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0]]).bool()
    return Target(torch.where(defined, torch.randn(ROWS, CLASSES, dtype=torch.float64), 0), defined, candidates)


def rows(student, target):
    return zip(student.numpy(), target.logits.numpy(), target.defined.numpy(), target.candidates.numpy(), strict=True)


@pytest.mark.parametrize("classes", ["seen", "all"])
def test_mean_squared_error_is_eq_9(student, target, classes):
    wanted = np.mean(
        [
            np.linalg.norm((mine - theirs)[defined & candidates if classes == "seen" else slice(None)]) ** 2
            for mine, theirs, defined, candidates in rows(student, target)
        ]
    )
    assert MeanSquaredError(classes)(student, target, LABELS).item() == pytest.approx(wanted, rel=1e-12)


def test_mean_squared_error_over_all_classes_is_torchs_times_the_classes(student, target):
    wanted = CLASSES * functional.mse_loss(student, target.logits)
    torch.testing.assert_close(MeanSquaredError("all")(student, target, LABELS), wanted)


def test_cross_entropy_over_candidates(student, target):
    wanted = np.mean(
        [
            -log_softmax(mine[candidates])[np.flatnonzero(candidates).tolist().index(label)]
            for label, (mine, _, _, candidates) in zip(LABELS.tolist(), rows(student, target), strict=True)
        ]
    )
    assert CrossEntropy()(student, target, LABELS).item() == pytest.approx(wanted, rel=1e-12)


def test_cross_entropy_over_all_classes(student, target):
    wanted = -log_softmax(student.numpy(), axis=1)[range(ROWS), LABELS].mean()
    assert CrossEntropy("all")(student, target, LABELS).item() == pytest.approx(wanted, rel=1e-12)


def test_a_label_is_always_a_candidate_of_its_image(student, target):
    outside = torch.tensor([4, 4, 0, 0])
    completed = target.candidates.clone()
    completed[range(ROWS), outside] = True
    loss = CrossEntropy()(student.requires_grad_(), target, outside)
    loss.backward()
    assert loss.item() == CrossEntropy()(student, Target(target.logits, target.defined, completed), outside).item()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_kl_divergence_agrees_with_scipy(student, target, temperature):
    wanted = np.mean(
        [
            rel_entr(softmax(theirs[defined] / temperature), softmax(mine[defined] / temperature)).sum()
            for mine, theirs, defined, _ in rows(student, target)
        ]
    )
    loss = KLDivergence(temperature)(student, target, LABELS)
    assert loss.item() == pytest.approx(temperature**2 * wanted, rel=1e-9)


def test_kl_gradient_tends_to_half_the_mse_of_centred_logits_at_high_temperature(student, target):
    """Hinton et al., Sec. 2.1: at a high temperature distillation matches logits."""
    everything = torch.ones_like(target.defined)
    student, teacher = (z - z.mean(1, keepdim=True) for z in (student, target.logits))
    student.requires_grad_()
    KLDivergence(1e4)(student, Target(teacher, everything, everything), LABELS).backward()
    torch.testing.assert_close(student.grad, (student - teacher).detach() / CLASSES / ROWS, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_an_image_without_target_counts_as_nothing(dtype):
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    student = torch.tensor([[1.0, 2.0, 30.0], [0.0, -9.0, 1.0]], dtype=dtype, requires_grad=True)
    target = Target(torch.zeros(2, 3, dtype=dtype), nothing, ~nothing)
    for loss in (KLDivergence(), MeanSquaredError()):
        value = loss(student, target, torch.tensor([0, 0]))
        (slope,) = torch.autograd.grad(value, student)
        assert value.item() == 0
        assert slope.abs().sum() == 0


@pytest.mark.parametrize("classes", ["seen", "all"])
def test_distillation_is_eq_10(student, target, classes):
    wanted = MeanSquaredError(classes)(student, target, LABELS) + 0.3 * CrossEntropy(classes)(student, target, LABELS)
    combined = Sum([MeanSquaredError(classes), Weighted(CrossEntropy(classes), 0.3)])
    for loss in (Distillation(0.3, classes), combined):
        torch.testing.assert_close(loss(student, target, LABELS), wanted, rtol=1e-12, atol=0)


def test_sum_of_nothing_is_zero(student, target):
    loss = Sum(())(student, target, LABELS)
    assert loss.item() == 0
    assert loss.dtype == torch.float64


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
class TestEveryLoss:
    def test_has_the_gradient_of_its_value(self, loss, student, target):
        assert torch.autograd.gradcheck(lambda z: loss(z, target, LABELS), student.requires_grad_())

    def test_is_the_mean_over_the_batch(self, loss, student, target):
        def part(index):
            masks = target.logits[index], target.defined[index], target.candidates[index]
            return loss(student[index], Target(*masks), LABELS[index])

        pieces = torch.stack([part(slice(row, row + 1)) for row in range(ROWS)])
        torch.testing.assert_close(part(slice(None)), pieces.mean())

    def test_reads_nothing_back_from_the_device(self, loss, student, target):
        masks = (part.to("meta") for part in (target.logits, target.defined, target.candidates))
        assert loss(student.to("meta"), Target(*masks), LABELS.to("meta")).shape == ()


@pytest.mark.parametrize(
    "make",
    [
        lambda: KLDivergence(0.0),
        lambda: Distillation(-1.0),
        lambda: CrossEntropy("known"),
        lambda: MeanSquaredError("none"),
        lambda: Weighted(CrossEntropy(), -0.1),
    ],
    ids=["temperature", "lambda", "cross-entropy", "mse", "weight"],
)
def test_settings_outside_their_range(make):
    with pytest.raises(SettingError):
        make()
