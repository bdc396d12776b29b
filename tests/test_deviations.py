"""Where the paper's code is not its text: each switch against what that code computes, written out in plain torch.

The rows are those of docs/deviations.md.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from exml import Expert, Learner, Samples, recipes
from exml.augmentation import Augmentation
from exml.buffers import EqualParts, Latest
from exml.combiners import SideBySide
from exml.core.targets import Target, TeacherLogits
from exml.engine import Training
from exml.generators import DataImpression, GaussianNoise, ModelInversion
from exml.losses import CrossEntropy, Distillation, MeanSquaredError
from exml.normalizers import CenterLogits
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm, Sum, record_activations
from exml.protocols import GenerationContext
from tests.helpers import profile

BATCH_NORM = BatchNormStatistics(10.0, layers="last", statistic="variance", reduction="mean", per="batch")
BLUR = GaussianBlur(0.01, kernel_size=7, padding="zeros", squared=False)


def network(batch_norm):
    torch.manual_seed(0)
    norm = [nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)] if batch_norm else []
    net = nn.Sequential(nn.Conv2d(1, 4, 3), *norm, nn.Tanh(), nn.Flatten(), nn.Linear(64 if batch_norm else 144, 3))
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
    return net.eval()


def expert(batch_norm, classes=(0, 1, 2), outputs=(0, 1, 2)):
    return Expert(network(batch_norm), classes, (1, 8, 8), outputs=outputs, mean=(0.2,), std=(0.5,))


def blurred(images):
    """The 7 x 7 kernel of the code: two normal densities of standard deviation 1, scaled to the sum 1; zeros around."""
    places = torch.arange(7.0) - 3
    density = torch.exp(-(places**2) / 2) / math.sqrt(2 * math.pi)
    kernel = density[:, None] * density
    return functional.conv2d(images, (kernel / kernel.sum())[None, None].to(images), padding=3)


def distance_of_last_batch_norm(net, images):
    """What the hook of the code is left with after a forward pass: the last layer's."""
    seen, layers = [], [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    handles = [part.register_forward_hook(lambda part, given, _: seen.append((given[0], part))) for part in layers]
    net(images)
    for handle in handles:
        handle.remove()
    given, part = seen[-1]
    mean, var = given.mean((0, 2, 3)), given.var((0, 2, 3), unbiased=False)
    return functional.mse_loss(part.running_mean, mean) + functional.mse_loss(part.running_var, var)


@pytest.mark.parametrize("count", [2, 7])
def test_batch_norm_of_the_last_layer_by_variance_once_a_mini_batch(count):
    net, images = network(True), torch.randn(count, 1, 8, 8)
    expected = 10.0 * distance_of_last_batch_norm(net, images)
    with record_activations(net) as activations:
        net(images)
        got = BATCH_NORM(images, activations)
    torch.testing.assert_close(count * got, expected)  # an inversion adds up the priors of its images


def test_blur_of_7_pixels_in_zeros_by_the_norm():
    images = torch.randn(5, 1, 9, 8)
    expected = 0.01 * torch.norm((images - blurred(images)).reshape(5, -1), dim=1).sum()
    torch.testing.assert_close(5 * BLUR(images, ()), expected)


def inverted_by_the_code(net, images, labels, *, steps, rate, batch, prior, seed):
    """A step a pass over all images: the gradients of mini-batches, drawn anew each time, are added up."""
    images = images.clone().requires_grad_()
    adam = torch.optim.Adam([images], lr=rate)
    draws = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        adam.zero_grad()
        order = torch.randperm(len(images), generator=draws)
        for begin in range(0, len(images), batch):
            rows = order[begin : begin + batch]
            part = images[rows]
            loss = functional.cross_entropy(net(part) / 2.0, labels[rows], reduction="sum")
            loss = loss + 0.001 * (part * part).sum()
            loss = loss + 0.01 * torch.norm((part - blurred(part)).flatten(1), dim=1).sum()
            (loss + prior(part)).backward()
        adam.step()
        images.data.clip_(-0.8, 0.8)
    return images.detach()


@pytest.mark.parametrize(("batch_norm", "batch"), [(False, 4), (False, 3), (True, 10)])
def test_a_pass_over_the_buffer_is_one_mini_batch_after_the_other(batch_norm, batch):
    """But for batch norm, whose statistics depend on which images share a mini-batch, the order makes no difference."""
    teacher = expert(batch_norm)
    priors = Sum((L2Norm(0.001), BLUR, *([BATCH_NORM] if batch_norm else [])))
    made = ModelInversion(iterations=12, learning_rate=0.05, temperature=2.0, batch_size=batch, clamp=0.8)(
        teacher, 10, 5, GenerationContext(prior=priors)
    )
    start = ModelInversion(iterations=1, learning_rate=1e-12, batch_size=10)(teacher, 10, 5)
    expected = inverted_by_the_code(
        teacher.module,
        teacher.normalize(start.images),
        start.labels,
        steps=12,
        rate=0.05,
        batch=batch,
        prior=lambda part: 10.0 * distance_of_last_batch_norm(teacher.module, part) if batch_norm else 0.0,
        seed=1,
    )
    torch.testing.assert_close(teacher.normalize(made.images), expected, rtol=0, atol=2e-4)
    assert expected.abs().max() == 0.8  # some were clamped
    assert (expected - teacher.normalize(start.images)).abs().mean() > 0.1


@given(seed=st.integers(0, 100), fill=st.sampled_from([0.0, 0.1307]))
def test_one_crop_for_the_whole_mini_batch(seed, fill):
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    together = Augmentation(shift=4, padding="zeros", fill=(fill,), parameters="batch")
    got = together(images, torch.Generator().manual_seed(seed))
    padded = functional.pad(images, (4, 4, 4, 4), value=fill)
    crops = [padded[:, :, y : y + 8, x : x + 8] for y in range(9) for x in range(9)]
    assert sum(torch.allclose(got, crop, atol=1e-6) for crop in crops) == 1
    apart = Augmentation(shift=4, padding="zeros", fill=(fill,))(images, torch.Generator().manual_seed(seed))
    assert not torch.allclose(got, apart, atol=1e-6)


def test_what_fills_the_border_has_its_own_value_in_each_channel():
    images = torch.ones(3, 3, 8, 8)
    turned = Augmentation(rotation=45.0, padding="zeros", fill=(0.1, 0.2, 0.3))
    corner = turned(images, torch.Generator().manual_seed(1)).amin((0, 2, 3))
    torch.testing.assert_close(corner, torch.tensor([0.1, 0.2, 0.3]))


@pytest.mark.parametrize("make", [ModelInversion, DataImpression])
def test_the_generation_may_have_an_augmentation_of_its_own(make):
    asked = []

    def listen(name):
        def augment(images, generator):
            asked.append(name)
            return images

        return augment

    context = GenerationContext(augmentation=listen("of the strategy"))
    make(iterations=1)(expert(False), 3, 0, context)
    make(iterations=1, augmentation=listen("its own"))(expert(False), 3, 0, context)
    assert asked == ["of the strategy", "its own"]


LOGITS = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
"""Of two teachers. Of five classes the first knows 0, 1 and 2 and the second 2 and 3."""
STUDENT = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def combined_by_the_code():
    previous, new = LOGITS[0][:, [0, 1, 2]], LOGITS[1][:, [2, 3]]
    target = torch.zeros(6, 5)
    target[:, [2, 3]] += new - new.mean(dim=1).unsqueeze(1)
    target[:, [0, 1, 2]] += previous - previous.mean(dim=1).unsqueeze(1)
    target[:, [2]] = 0.5 * target[:, [2]]
    return target


def side_by_side():
    known = torch.tensor([[True, True, True, False, False], [False, False, True, True, False]])
    pairs = zip(LOGITS, known, strict=True)
    teachers = [TeacherLogits(CenterLogits()(row, mask), mask, torch.ones(5).bool()) for row, mask in pairs]
    return SideBySide(overlap="half")(*teachers, Samples.of(torch.zeros(6, 1, 2, 2), torch.tensor([0, 1, 2, 3, 0, 3])))


def test_targets_side_by_side_are_centred_over_the_classes_of_each_teacher():
    torch.testing.assert_close(side_by_side().logits, combined_by_the_code())


def test_the_squared_error_is_a_mean_over_all_classes_with_0_for_the_unseen():
    labels = torch.tensor([0, 1, 2, 3, 0, 3])
    expected = functional.mse_loss(STUDENT, combined_by_the_code())
    torch.testing.assert_close(MeanSquaredError("all", "mean")(STUDENT, side_by_side(), labels), expected)
    whole = Distillation(1.0, classes="all", reduction="mean")(STUDENT, side_by_side(), labels)
    torch.testing.assert_close(whole, expected + functional.cross_entropy(STUDENT, labels))


def test_labels_of_the_combined_target():
    target, labels = combined_by_the_code(), torch.full((6,), 4)
    expected = functional.cross_entropy(STUDENT, target.argmax(dim=1))
    torch.testing.assert_close(CrossEntropy("all", "target")(STUDENT, side_by_side(), labels), expected)
    whole = Distillation(2.0, classes="all", reduction="mean", labels="target")(STUDENT, side_by_side(), labels)
    torch.testing.assert_close(whole, functional.mse_loss(STUDENT, target) + 2 * expected)


def test_of_the_classes_seen_only_those_that_a_teacher_spoke_of_can_be_a_label():
    """All known logits are negative; over all classes the unseen one, which has 0, would be the largest."""
    known = torch.tensor([[True, True, False]])
    target = Target(torch.tensor([[-2.0, -1.0, 0.0]]), known, known)
    student = torch.tensor([[0.5, 1.5, 3.0]])
    seen = CrossEntropy("seen", "target")(student, target, torch.tensor([0]))
    torch.testing.assert_close(seen, functional.cross_entropy(student[:, :2], torch.tensor([1])))
    everything = CrossEntropy("all", "target")(student, target, torch.tensor([0]))
    torch.testing.assert_close(everything, functional.cross_entropy(student, torch.tensor([2])))


def dirichlet_of_the_code(weight, own, beta, count):
    """Labels: rows of all units, scaled by their least and greatest, times beta, plus 0.0001; drawn by numpy."""
    unit = (weight / weight.norm(dim=1, keepdim=True)).double()
    draws, labels = np.random.default_rng(0), []
    for row in (unit @ unit.T)[own]:
        scaled = beta * (row - row.min()) / (row.max() - row.min()) + 0.0001
        labels += draws.dirichlet(scaled.numpy(), size=count // len(own)).argmax(1).tolist()
    return torch.bincount(torch.tensor(labels), minlength=len(weight)) / len(labels)


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
def test_data_impression_draws_classes_that_the_expert_never_saw(beta):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 84), nn.Tanh(), nn.Linear(84, 10))
    teacher = Expert(net, (3, 7), (1, 2, 2), outputs=range(10))
    made = DataImpression(beta, iterations=1, classes="all")(teacher, 20_000, 0)
    got = torch.bincount(made.labels, minlength=10) / 20_000
    expected = dirichlet_of_the_code(net[3].weight.detach(), [3, 7], beta, 20_000)
    # Two samples of 20,000: at most 5 standard deviations of their difference, and 0.002 for the 0.0001 that is added.
    spread = 5 * (2 * expected * (1 - expected) / 20_000).sqrt() + 0.002
    assert ((got - expected).abs() <= spread).all()
    unseen = 1 - got[[3, 7]].sum()
    assert unseen > (0.1 if beta < 1 else 0.0)
    assert made.targets.shape == (20_000, 10)
    torch.testing.assert_close(made.targets.sum(1), torch.ones(20_000))
    assert set(DataImpression(beta, iterations=1)(teacher, 500, 0).labels.tolist()) == {3, 7}


def test_a_learner_learns_from_labels_that_come_with_soft_targets_over_all_outputs():
    strategy = recipes.reference(profile(), "data-impression").buffer(EqualParts(40))
    strategy = strategy.generator(DataImpression(0.1, iterations=1, classes="all")).priors()
    learner = Learner(
        strategy.training(Training(iterations=2, batch_size=4, learning_rate=0.01)).build(), network(False)
    )
    learner.learn(expert(False, classes=(1,)))
    assert set(learner.memory.labels.tolist()) > {1}


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_data_impressions_are_finished_as_soon_as_their_class_is_sure(temperature):
    teacher = expert(False)
    settings = {"beta": 5.0, "iterations": 60, "learning_rate": 0.1, "temperature": temperature}
    made, whole = (DataImpression(stop_at=stop, **settings)(teacher, 12, 0) for stop in (0.6, None))
    labels, logits = made.labels, teacher.logits(made.images)
    sure = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    assert (sure > 0.6).all()
    assert torch.equal(made.labels, whole.labels)
    start = GaussianNoise()(teacher, 12, 0).images
    assert (made.images - start).abs().mean() < (whole.images - start).abs().mean()


@given(size=st.integers(6, 60), experiences=st.integers(1, 6))
def test_every_experience_is_cut_down_to_the_same_number(size, experiences):
    policy, memory = EqualParts(size), None
    for experience in range(1, experiences + 1):
        images = torch.rand(policy.share(experience), 1, 1, 1) + experience
        new = Samples.of(images, torch.zeros(len(images), dtype=torch.long), experience=experience)
        before = memory
        memory = policy(memory, new, torch.Generator().manual_seed(experience))
        assert torch.bincount(memory.experiences).tolist() == [0] + experience * [size // experience]
        if before is not None:
            assert torch.isin(memory.images, torch.cat([before.images, images])).all()
            assert len(memory.images.unique()) == len(memory)


def test_auxiliary_data_are_not_gathered():
    old = Samples.of(torch.zeros(5, 1, 2, 2), torch.zeros(5, dtype=torch.long), experience=1)
    new = Samples.of(torch.ones(5, 1, 2, 2), torch.ones(5, dtype=torch.long), experience=2)
    assert Latest(5)(old, new, torch.Generator()) is new
    assert [Latest(5).share(experience) for experience in (1, 100)] == [5, 5]
