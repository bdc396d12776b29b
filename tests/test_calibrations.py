"""Calibrations: the formulas in float64 with NumPy, layers found by their properties, and what a learner does."""

from itertools import permutations

import attrs
import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import entr, logsumexp, softmax
from torch import nn

import exml
from exml import calibrations
from exml.augmentation import Augmentation
from exml.buffers import Cumulative
from exml.calibrations import CommonScale
from exml.combiners import ByClass, SideBySide
from exml.core.errors import SettingError
from exml.core.expert import Expert
from exml.core.rng import derive_seed, make_generator
from exml.core.targets import Reading
from exml.engine.reading import learned_decay, matched_temperature, reader_of, related, row_space_typicality
from exml.generators import EvolvedDrawings, ProceduralImages
from exml.learning import Stop
from exml.models import ConvNet, LeNet5, Normalized
from exml.normalizers import RawLogits
from exml.runs.audit import target_predictor
from tests.helpers import SHAPE, experts, network, same, strategy, weights

DRAWINGS = EvolvedDrawings(steps=4, snapshots=1, copies=1, pool=60)
SCALE = CommonScale(drawings=DRAWINGS, related_drawings=DRAWINGS)


def mlp(outputs=3, factor=1.0, shape=SHAPE):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 9), nn.ReLU(), nn.Linear(9, outputs)).double().float()
    with torch.no_grad():
        net[3].weight *= factor
        net[3].bias *= factor
    return Expert(net, range(outputs), shape, mean=(0.2,), std=(0.4,))


def in_float64(expert, images):
    """z, the norm of h, and the typicality, in NumPy."""
    first, last = (expert.module[place] for place in (1, 3))
    w, b, v, c = (part.detach().double().numpy() for layer in (first, last) for part in (layer.weight, layer.bias))
    a = (images.double().numpy().reshape(len(images), -1) - 0.2) / 0.4
    h = np.maximum(a @ w.T + b, 0)
    basis = np.linalg.svd(w, full_matrices=False)[2]
    typicality = -np.log(1 - ((a @ basis.T) ** 2).sum(1) / (a**2).sum(1))
    return h @ v.T + c, np.linalg.norm(h, axis=1, keepdims=True), typicality


def test_the_formula():
    expert, seed = mlp(), 5
    pool = DRAWINGS.random(60, SHAPE, make_generator("cpu", seed, "common-scale"))
    evolved = DRAWINGS(expert, 200, derive_seed(seed, "evolved")).images
    images = torch.rand(7, *SHAPE)

    def margins(z, norm):
        return (z - z.mean(1, keepdims=True)) / np.sqrt(norm)

    def entropy(log_t, u):
        return entr(softmax(u / np.exp(log_t), axis=1)).sum(1).mean() - 0.5 * np.log(3)

    def surplus(z, norm):
        b = margins(z, norm) / temperature
        return b - 0.5 * (logsumexp(b, axis=1, keepdims=True) - np.log(3))

    z, norm, q = in_float64(expert, pool)
    temperature = np.exp(brentq(entropy, -9, 9, args=(margins(z, norm),)))
    offset = surplus(z, norm).max(1).mean()
    level = max(((in_float64(expert, evolved)[2] - q.mean()) / q.std(ddof=1)).mean(), 0.5)
    own, own_norm, own_q = in_float64(expert, images)
    typical = (own_q - q.mean()) / (q.std(ddof=1) * level)
    wanted = 3 * (surplus(own, own_norm) - offset / 4 + typical[:, None] / 4)
    np.testing.assert_allclose(SCALE(expert, seed).logits(images).detach(), wanted, rtol=1e-3, atol=1e-3)


def test_the_size_of_a_head_does_not_matter():
    images = torch.rand(9, *SHAPE)
    small, large = (SCALE(mlp(factor=factor), 0).logits(images) for factor in (0.1, 40.0))
    torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-3)


def test_an_entropy_is_matched():
    logits = 30 * torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) + 100
    p = softmax(logits.double().numpy() / matched_temperature(logits, 0.3), axis=1)
    assert entr(p).sum(1).mean() / np.log(7) == pytest.approx(0.3, abs=1e-6)
    assert matched_temperature(torch.randn(5, 1), 0.5) == matched_temperature(torch.ones(5, 2), 0.5) == 1


@pytest.mark.parametrize(
    ("module", "units", "names"),
    [
        (LeNet5(1, 4, 28), 4, ("classifier", "hidden.1")),
        (ConvNet(1, 4, 28), 4, ("classifier", "features.4")),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 4)), 4, ("1", None)),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 900), nn.ReLU(), nn.Linear(900, 4)), 4, ("3", None)),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 4, (None, "0")),
    ],
)
def test_layers_are_found_by_what_they_do(module, units, names):
    reader = reader_of(Expert(module, range(units), (1, 28, 28)))
    assert (reader.classifier, reader.narrowing) == names


@pytest.mark.parametrize("settings", [{"padding": 1, "stride": 2}, {"dilation": 2}])
def test_typicality_of_patches(settings):
    layer, inputs = nn.Conv2d(3, 5, 3, **settings), torch.randn(4, 3, 9, 9)
    basis = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)[2]
    patches = nn.functional.unfold(inputs, 3, **settings).double()
    inside = torch.einsum("rp,npl->nrl", basis.double(), patches).square().sum((1, 2))
    wanted = -(1 - inside / patches.square().sum((1, 2))).log()
    torch.testing.assert_close(row_space_typicality(inputs, layer, basis).double(), wanted, rtol=1e-4, atol=1e-4)


class Function(nn.Module):
    """Stands for a module without layers, weights or gradients."""

    @torch.no_grad()
    def forward(self, images):
        return torch.stack([images.mean((1, 2, 3)), images.amax((1, 2, 3))], 1)


@pytest.mark.parametrize(
    "expert",
    [
        Expert(Function(), (4, 2), SHAPE),
        mlp(1),
        Expert(network(6), (3,), SHAPE, outputs=range(6)),
        Expert(mlp().module, (7, 1), SHAPE, outputs=(7, None, 1)),
    ],
    ids=["a function", "one class", "one class of six units", "a unit without a class"],
)
def test_other_experts_are_calibrated_as_far_as_possible(expert):
    images = torch.rand(6, *SHAPE)
    calibrated = SCALE(expert, 0)
    logits = calibrated.logits(images)
    assert logits.shape == (6, len(expert.outputs))
    assert logits.isfinite().all()
    assert same(weights(calibrated.module), {f"module.{k}": v for k, v in weights(expert.module).items()})
    assert torch.equal(calibrated.predicted_ids(images), expert.predicted_ids(images))


def test_a_learner_calibrates_also_when_it_resumes(tmp_path):
    parts = {"generator": ProceduralImages(), "prior": None, "combiner": SideBySide(), "normalizer": RawLogits()}
    ours = strategy(**parts, calibration=SCALE)

    whole, plain = (exml.Learner(each, network(6, seed=1)) for each in (ours, attrs.evolve(ours, calibration=None)))
    for each in (whole, plain):
        each.learn(experts()[0])
    stop = Stop()
    stopped = exml.Learner(ours, network(6, seed=1), folder=tmp_path, stop=stop)
    stopped.observers.append(lambda event: stop.ask() if type(event).__name__ == "DistillationProgress" else None)
    stopped.learn(experts()[0])
    assert stopped.experience == 0
    resumed = exml.Learner(ours, network(6, seed=1)).resume(tmp_path)
    resumed.learn(experts()[0])
    assert same(weights(resumed.student), weights(whole.student))
    assert not same(weights(plain.student), weights(whole.student))


def test_strategies():
    ours = strategy(calibration=SCALE)
    assert exml.Strategy.from_yaml(ours.to_yaml()) == ours
    assert "calibration" not in strategy().to_dict()


def test_steps_in_float64():
    """Each step against its formula, with drawings and evolved drawings that are given."""
    torch.manual_seed(0)
    own = torch.tensor([2, 0])

    def reading(count):
        return Reading(torch.randn(count, 4), torch.rand(count, 1) + 0.1, torch.randn(count), own)

    drawings, evolved, images = reading(50), reading(20), reading(7)
    z, h, q = (part.double().numpy() for part in (images.logits, images.norm, images.typicality))
    k, pool, best = z[:, [2, 0]], drawings.own_logits.double().numpy(), evolved.own_logits.double().numpy()
    low, high = pool.max(1).mean(), best.max(1).mean()
    level = max((evolved.typicality.mean() - drawings.typicality.mean()) / drawings.typicality.std(), 0.5)
    typical = (q - drawings.typicality.mean().item()) / drawings.typicality.std().item() / float(level)
    wanted = {
        calibrations.Center(): z - k.mean(1, keepdims=True),
        calibrations.RootNorm(): z / np.sqrt(h),
        calibrations.Probabilities(): softmax(z, axis=1),
        calibrations.Energy(0.7): z - 0.7 * (logsumexp(k, axis=1, keepdims=True) - np.log(2)),
        calibrations.PoolOffset(0.4): z - 0.4 * low,
        calibrations.TwoAnchors(): (z - low) / (high - low),
        calibrations.Typicality(0.6): z + 0.6 * typical[:, None],
        calibrations.Scale(1.7): 1.7 * z,
    }
    for step, logits in wanted.items():
        np.testing.assert_allclose(step(drawings, lambda: evolved)(images), logits, rtol=1e-4, atol=1e-5)
    plain = attrs.evolve(drawings, typicality=None)
    assert calibrations.Typicality()(plain, lambda: evolved)(images) is images.logits


def test_a_common_start_decides_the_steps():
    expert, images = mlp(), torch.rand(5, *SHAPE)
    start = {"1.weight": expert.module[1].weight.detach() + 0.01 * torch.randn(9, 36)}
    scale = attrs.evolve(SCALE, steps=[calibrations.Scale(2.0)], related=[calibrations.Scale(5.0)])
    plain = expert.logits(images)
    torch.testing.assert_close(scale(expert, 0).logits(images), 2 * plain)
    torch.testing.assert_close(scale(expert, 0, start).logits(images), 5 * plain)


def test_related_experts_are_calibrated_on_drawings_of_their_own():
    expert, others = mlp(), EvolvedDrawings(steps=0, pool=9, polarity="dark")
    start = {"1.weight": expert.module[1].weight.detach() + 0.01 * torch.randn(9, 36)}
    seen = list[int]()

    class Counts:
        def __call__(self, drawings, evolved, /):
            seen.append(len(drawings.logits))
            return lambda reading: reading.logits

    scale = attrs.evolve(SCALE, steps=[Counts()], related=[Counts()], related_drawings=others)
    scale(expert, 0)
    scale(expert, 0, start)
    assert seen == [DRAWINGS.pool, 9]


def test_a_common_start_is_recognized_after_long_training_and_not_by_chance():
    start = torch.randn(120, 400)
    assert related(start + 2 * torch.randn_like(start), start)  # a cosine of 0.45
    draws = torch.randn(1_000, 2, 8, 8)
    assert not any(related(one, other) for one, other in draws)
    assert sum(float(nn.functional.cosine_similarity(one.flatten(), other.flatten(), 0)) > 0.2 for one, other in draws)


def sgd(layer, inputs, decay, steps, rate=0.05):
    """Train a linear layer on random targets by SGD with momentum and coupled weight decay."""
    optimizer = torch.optim.SGD(layer.parameters(), rate, momentum=0.9, weight_decay=decay)
    targets = torch.randn(len(inputs), layer.out_features)
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(inputs) - targets).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 5e-3])
def test_what_sgd_learned_is_found(decay):
    """The inputs span 6 of 60 dimensions: γ is that of the weights of all others, and W - γ W0 spans the inputs."""
    torch.manual_seed(0)
    layer, span = nn.Linear(60, 20), torch.linalg.qr(torch.randn(60, 6))[0]
    start = layer.weight.detach().clone()
    sgd(layer, torch.randn(64, 6) @ span.T, decay, 200)
    outside = torch.eye(60) - span @ span.T
    remains = ((layer.weight @ outside) * start).sum() / (start @ outside).square().sum()
    gamma = learned_decay(layer.weight.detach(), start)
    assert gamma == pytest.approx(remains.item(), abs=1e-3)
    assert gamma == pytest.approx(1, abs=1e-3) if decay == 0 else gamma < 0.96

    net = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(20, 2))
    expert = Expert(net, (0, 1), (1, 6, 10))
    known, unknown = (reader_of(expert, weights) for weights in ({"1.weight": start}, None))
    assert (known.decay, unknown.decay) == (pytest.approx(gamma), 0)
    inside, other = torch.randn(9, 6) @ span.T, torch.randn(9, 60)
    for reader, separates in ((known, True), (unknown, False)):
        near, far = (reader(net, images.view(9, 1, 6, 10)).typicality for images in (inside, other))
        assert bool((near.min() > far.max() + 3) == separates)


@pytest.mark.parametrize("start", [None, {}, {"1.weight": torch.randn(9, 36)}, {"1.weight": torch.ones(3, 36)}])
def test_an_unrelated_start_is_ignored(start):
    reader = reader_of(mlp(), start)
    assert reader.decay == 0
    assert torch.equal(reader.basis, reader_of(mlp()).basis)


def related_experts():
    """Two experts with a common start, as :func:`tests.helpers.experts` are not."""
    first = mlp(outputs=6)
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 9), nn.ReLU(), nn.Linear(9, 6))
    other.load_state_dict({k: v + 0.02 * torch.randn_like(v) for k, v in first.module.state_dict().items()})
    card = {"outputs": range(6), "mean": (0.2,), "std": (0.4,)}
    return [Expert(first.module, (0, 1), SHAPE, **card), Expert(other, (2, 3), SHAPE, **card)]


class Noting:
    """A calibration that notes the start which it is given."""

    def __init__(self):
        self.starts = []

    def __call__(self, expert, seed, start=None, /):
        self.starts.append(start)
        return expert


def test_the_learner_gives_the_start_that_is_known_or_found(tmp_path):
    parts = {"generator": ProceduralImages(), "prior": None, "combiner": SideBySide(), "normalizer": RawLogits()}
    first, second = related_experts()
    name = "1.weight"

    def starts(known=None, preview=False):
        noting = Noting()
        learner = exml.Learner(strategy(**parts), network(6, seed=1))
        learner.strategy = attrs.evolve(learner.strategy, calibration=noting)
        learner.start = known
        if preview:
            learner.preview([lambda: first, lambda: second])
        for expert in (first, second):
            learner.learn(expert)
        return [None if start is None else start[name] for start in noting.starts]

    w1, w2 = (expert.module[1].weight for expert in (first, second))
    assert [start is None for start in starts()] == [True, False]
    ahead = starts(preview=True)
    assert torch.equal(ahead[0], w2)
    assert torch.equal(ahead[1], w1)
    known = {name: torch.zeros(9, 36)}
    assert all(start is known[name] for start in starts(known))

    learner = exml.Learner(strategy(**parts, calibration=SCALE), network(6, seed=1), folder=tmp_path)
    learner.learn(first)
    resumed = exml.Learner(strategy(**parts, calibration=SCALE), network(6, seed=1)).resume(tmp_path)
    assert torch.equal(resumed._start()[name], w1)


def test_a_previewed_expert_is_not_compared_with_itself():
    """Its layer has another name than that of the first expert, which therefore does not replace it."""
    parts = {"generator": ProceduralImages(), "prior": None, "combiner": SideBySide(), "normalizer": RawLogits()}
    first = mlp(outputs=6)
    other = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(36, 9), nn.ReLU(), nn.Linear(9, 6))
    first, second = (
        Expert(net, ids, SHAPE, outputs=range(6)) for net, ids in ((first.module, (0, 1)), (other, (2, 3)))
    )
    noting = Noting()
    learner = exml.Learner(strategy(**parts), network(6, seed=1))
    learner.strategy = attrs.evolve(learner.strategy, calibration=noting)
    learner.preview([lambda: first, lambda: second])
    for expert in (first, second):
        learner.learn(expert)
    assert [list(start) for start in noting.starts] == [["2.weight"], ["1.weight"]]


@pytest.mark.parametrize("order", [*permutations(range(3))][1:])
def test_the_target_of_unlike_experts_does_not_depend_on_their_order(order):
    wide = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(36, 9), nn.ReLU(), nn.Linear(9, 6))
    deep = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 6))
    nets = ((mlp(outputs=6).module, (0, 1, 2)), (wide, (1, 2, 3, 4)), (deep, (4, 5)))
    unlike = [Expert(net, ids, SHAPE, outputs=range(6)) for net, ids in nets]
    chosen = stored_strategy(calibration=SCALE)
    images = torch.rand(20, *SHAPE)
    targets = [
        target_predictor(chosen, exml.ExpertStream.from_experts([unlike[place] for place in places]), 6, 0)(
            images, None
        )
        for places in (range(3), order)
    ]
    torch.testing.assert_close(*targets)


def stored_strategy(**parts):
    training = exml.Training(iterations=3, batch_size=4, learning_rate=0.01, stored=True)
    common = {"generator": ProceduralImages(), "prior": None, "normalizer": RawLogits(), "augmentation": None}
    return strategy(**{**common, "combiner": SideBySide(), "training": training, **parts})


def test_stored_targets_keep_the_logits_of_earlier_experts(tmp_path):
    first, second = experts()[:2]
    learner = exml.Learner(stored_strategy(), network(6, seed=1), folder=tmp_path)
    learner.learn(first)
    before = learner.memory
    own = torch.tensor(first.classes)
    torch.testing.assert_close(before.logits[:, own], first.logits(before.pixels()).detach()[:, own])
    student = exml.Learner(stored_strategy(), network(6, seed=1)).resume(tmp_path).student.eval()
    learner.learn(second)
    after, new = learner.memory, torch.tensor(second.classes)
    torch.testing.assert_close(after.logits[:, new], second.logits(after.pixels()).detach()[:, new])
    old = after.experiences == 1
    kept = (after.images[old][:, None] == before.images[None]).flatten(2).all(2).float().argmax(1)
    assert torch.equal(after.logits[old][:, own], before.logits[kept][:, own])
    with torch.no_grad():
        expected = student(after.pixels()[~old])[:, own]
    torch.testing.assert_close(after.logits[~old][:, own], expected)


@pytest.mark.parametrize("settings", [{"stored": True}, {"stored": False, "views": 2}])
def test_a_learner_with_balanced_mini_batches(settings):
    students = []
    for sampling in ("uniform", "class-balanced"):
        training = attrs.evolve(stored_strategy().training, **settings, sampling=sampling)
        learner = exml.Learner(stored_strategy(training=training), network(6, seed=1))
        for expert in experts()[:2]:
            learner.learn(expert)
        students.append(weights(learner.student))
    assert not same(*students)


def test_a_margin_lowers_each_column_of_an_image_once():
    """The columns that only experts have who do not know its label; those of later experts as well as of earlier."""
    memories = []
    for margin in (0.0, 2.0):
        training = attrs.evolve(stored_strategy().training, margin=margin, learning_rate=1e-9)
        learner = exml.Learner(stored_strategy(training=training), network(6, seed=1))
        for expert in experts():
            learner.learn(expert)
        memories.append(learner.memory)
    plain, lowered = memories
    taught = [set(expert.classes) for expert in experts()]
    seen = set().union(*taught)
    for row, (label, number) in enumerate(zip(plain.labels.tolist(), plain.experiences.tolist(), strict=True)):
        assert label in taught[number - 1]
        for name in seen:
            # The image's expert comes with those before it, and meets each later one.
            before = set().union(*taught[: number - 1])
            known = label in before, name in before
            foreign = known == (False, True) and name not in taught[number - 1]
            before |= taught[number - 1]
            for later in taught[number:]:
                foreign |= name in later - before and label not in later
                before |= later
            difference = float(plain.logits[row, name] - lowered.logits[row, name])
            assert difference == pytest.approx(2.0 * foreign, abs=1e-4)


def test_stored_targets_resume(tmp_path):
    whole = exml.Learner(stored_strategy(calibration=SCALE), network(6, seed=1))
    stop = Stop()
    stopped = exml.Learner(stored_strategy(calibration=SCALE), network(6, seed=1), folder=tmp_path, stop=stop)
    for expert in experts()[:2]:
        whole.learn(expert)
    stopped.learn(experts()[0])
    stopped.observers.append(lambda event: stop.ask() if type(event).__name__ == "DistillationProgress" else None)
    stopped.learn(experts()[1])
    resumed = exml.Learner(stored_strategy(calibration=SCALE), network(6, seed=1)).resume(tmp_path)
    resumed.learn(experts()[1])
    assert same(weights(resumed.student), weights(whole.student))


def test_stored_targets_need_a_combiner_that_defines_all_known_classes():
    learner = exml.Learner(stored_strategy(combiner=ByClass()), network(6, seed=1))
    learner.learn(experts()[0])
    with pytest.raises(SettingError, match=r"defines the logits of all known classes, .*got ByClass"):
        learner.learn(experts()[1])
    with pytest.raises(SettingError, match="stored"):
        exml.Training(iterations=1, batch_size=1, learning_rate=0.1, stored=True, hints=1.0)


def test_stored_views_take_a_place_each(tmp_path):
    """Three views of each generated image, with their own targets."""
    training = exml.Training(iterations=3, batch_size=4, learning_rate=0.01, stored=True, views=3)
    parts = {"training": training, "augmentation": Augmentation(flip=0.5), "buffer": Cumulative(8)}
    made, first = [], experts()[0]

    def count(event):
        if type(event).__name__ == "GenerationProgress":
            made.append(event.images)

    learner = exml.Learner(stored_strategy(**parts), network(6, seed=1), folder=tmp_path, observers=[count])
    learner.learn(first)
    images = learner.memory.images
    assert set(made) == {3}
    assert len(images) == 8
    for image, view in zip(images[:5], images[3:], strict=True):
        assert torch.equal(image, view) or torch.equal(image, view.flip(2))
    assert not torch.equal(images[:5], images[3:])
    own = torch.tensor(first.classes)
    torch.testing.assert_close(learner.memory.logits[:, own], first.logits(images).detach()[:, own])
    again = exml.Learner(stored_strategy(**parts), network(6, seed=1))
    again.learn(first)
    assert same(weights(again.student), weights(learner.student))


def test_a_copy_of_the_first_expert_learns_the_common_scale():
    parts = {"generator": ProceduralImages(), "prior": None, "combiner": SideBySide(), "normalizer": RawLogits()}
    expert = experts()[0]
    for calibration in (None, SCALE):
        student = Normalized(network(6, seed=1), expert.mean, expert.std)
        learner = exml.Learner(strategy(**parts, student="first-expert", calibration=calibration), student)
        learner.learn(expert)
        assert same(weights(student.module), weights(expert.module)) == (calibration is None)
