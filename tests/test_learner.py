"""Algorithm 1: what a step does, what it refuses, and that a run killed anywhere resumes to the same student."""

import copy
import gc
import random
import shutil
import threading

import attrs
import pytest
import torch
from torch import nn

import exml
import exml.core.targets
from exml.combiners import MultiTask, ProductOfExperts
from exml.core.errors import (
    BufferSizeError,
    CheckpointError,
    ExmlWarning,
    ExpertError,
    NonFiniteError,
    SettingError,
    ShapeError,
    StreamError,
    SuspectError,
)
from exml.core.records import read_record, write_record
from exml.engine import Training
from exml.generators import GaussianNoise, Mixture, ModelInversion
from exml.learning import CheckpointFolder, Stop, events
from exml.learning.checkpoint import CheckpointRecord, identity
from exml.losses import MeanSquaredError
from exml.normalizers import RawLogits
from exml.priors import GaussianBlur, L2Norm, Sum, Weighted
from tests.helpers import SHAPE, experts, network, same, strategy, weights


def noise(**changes):
    return strategy(**{"generator": GaussianNoise(), "prior": None, **changes})


def run(chosen, *, stream=None, student=None, **settings):
    learner = exml.Learner(chosen, network(dropout=0.2) if student is None else student, **settings)
    learner.learn_stream(exml.ExpertStream.from_experts(experts() if stream is None else stream))
    return learner


def test_one_experience_after_another():
    learner = run(noise())
    assert learner.experience == 3
    assert learner.classes_seen == (0, 1, 2, 3, 4, 5)
    assert learner.memory.experiences.bincount().tolist() == [0, 4, 4, 4]
    assert learner.student.training


@pytest.mark.filterwarnings("ignore:expected an image for each")
def test_a_plain_sgd_step_is_the_formula():
    """First experience, no normalizer, MSE: one step follows the gradient of Eq. 9, written out in float64."""
    expert, student = experts(1)[0], nn.Sequential(nn.Flatten(), nn.Linear(36, 2, bias=False))
    chosen = noise(
        training=Training(iterations=1, batch_size=4, learning_rate=0.05),
        buffer=exml.buffers.Cumulative(1),  # one image: every draw is the same
        normalizer=RawLogits(),
        loss=MeanSquaredError(),
        combiner=ProductOfExperts(),
        augmentation=None,
    )
    before = student[1].weight.detach().double().clone()
    learner = run(chosen, stream=[expert], student=student)
    x = learner.memory.images.double()
    with torch.no_grad():
        target = copy.deepcopy(expert.module).eval().double()((x - 0.3) / 0.5)
    flat = x.flatten(1)
    gradient = 2 * (flat @ before.T - target).T @ flat
    torch.testing.assert_close(student[1].weight.double(), before - 0.05 * gradient, rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_student_whatever_the_global_generator():
    chosen = strategy()
    torch.manual_seed(1)
    one = run(chosen, student=network(seed=3, dropout=0.3), seed=5)
    torch.manual_seed(2)
    torch.rand(100)
    two = run(chosen, student=network(seed=3, dropout=0.3), seed=5)
    other = run(chosen, student=network(seed=3, dropout=0.3), seed=6)
    assert same(weights(one.student), weights(two.student))
    assert not same(weights(one.student), weights(other.student))


def test_the_callers_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    student, stream = network(), experts()
    torch.manual_seed(0)
    run(noise(), student=student, stream=stream)
    assert torch.equal(torch.rand(3), expected)


def test_experts_are_not_changed():
    stream = experts()
    before = [weights(expert.module) for expert in stream]
    run(strategy(), stream=stream)
    for expert, was in zip(stream, before, strict=True):
        assert same(weights(expert.module), was)
        assert all(parameter.requires_grad and parameter.grad is None for parameter in expert.module.parameters())


def test_heterogeneous_experts_and_student():
    """Other architectures, heads and normalizations, and another student."""
    wide = exml.Expert(network(6, 1, width=7), (0, 1), SHAPE, outputs=range(6), mean=(0.1,), std=(0.3,))
    own = exml.Expert(nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), (5, 2), SHAPE)
    partial = exml.Expert(network(4, 2), (3,), SHAPE, outputs=(None, 3, 4, None))
    student = exml.models.Normalized(network(6, 3, width=2), mean=(0.5,), std=(0.5,))
    learner = run(noise(combiner=ProductOfExperts()), stream=[wide, own, partial], student=student)
    assert learner.classes_seen == (0, 1, 2, 3, 5)


def test_events_come_in_order():
    seen = []
    run(strategy(), stream=experts(2), observers=[seen.append])
    names = [type(event).__name__ for event in seen]
    one = [
        "ExpertScreened",
        "ExperienceStarted",
        "GenerationProgress",
        "BufferUpdated",
        *["DistillationProgress"] * 7,
        "ExperienceFinished",
    ]
    assert [name for i, name in enumerate(names) if name != "GenerationProgress" or names[i - 1] != name] == one * 2
    progress = [event for event in seen if isinstance(event, events.DistillationProgress)]
    assert [event.done for event in progress] == [*range(1, 8)] * 2
    assert all(event.loss.isfinite() and not event.loss.requires_grad for event in progress)


def test_the_previous_student_teaches():
    """The combiner gets the logits of f_{i-1} as it was after the first experience."""
    watched = []

    @attrs.frozen
    class Watch:
        def __call__(self, previous, expert, samples, /):
            watched.append((previous, samples))
            return ProductOfExperts()(previous, expert, samples)

    after_first = {}

    def keep(event):
        if isinstance(event, events.ExperienceFinished) and event.experience == 1:
            after_first["student"] = copy.deepcopy(event.student).eval()

    run(noise(combiner=Watch(), normalizer=RawLogits(), augmentation=None), stream=experts(2), observers=[keep])
    first, later = watched[2:9], watched[10:]  # one rehearsal per experience, and one in training mode
    assert not any(previous.known.any() or previous.logits.any() for previous, _ in first)
    for previous, samples in later:
        with torch.no_grad():
            expected = after_first["student"](samples.images)
        torch.testing.assert_close(previous.logits, expected)
        assert previous.known.tolist() == [True, True, False, False, False, False]


def test_the_previous_student_counts_the_experts_of_each_class(tmp_path):
    """Also after it was resumed."""
    counts = []

    @exml.component
    @attrs.frozen
    class Count:
        def __call__(self, previous, expert, samples, /):
            counts.append(previous.taught.tolist())
            return ProductOfExperts()(previous, expert, samples)

    chosen = noise(combiner=Count())
    first, second, third = experts(3)
    learner = exml.Learner(chosen, network(), folder=tmp_path)
    learner.learn(first)
    learner.learn(attrs.evolve(second, classes=(1, 2)))
    counts.clear()
    exml.Learner(chosen, network()).resume(tmp_path).learn(attrs.evolve(third, classes=(2, 5)))
    assert counts[-1] == [1, 2, 1, 0, 0, 0]


@pytest.mark.parametrize("start", ["reset", "continue"])
def test_reset_starts_each_experience_at_the_initial_weights(start):
    student = network()
    initial = nn.utils.parameters_to_vector(student.parameters()).detach().clone()
    distances = []

    def note(event):
        if isinstance(event, events.DistillationProgress) and event.done == 1:
            now = nn.utils.parameters_to_vector(student.parameters()).detach()
            distances.append((now - initial).norm().item())

    # The gradient is clipped to a step of length 0.1.
    steps = Training(iterations=20, batch_size=4, learning_rate=1.0, clip_norm=0.1)
    run(noise(student=start, training=steps), student=student, observers=[note])
    near = [distance < 0.101 for distance in distances]
    assert near == ([True] * 3 if start == "reset" else [True, False, False])


def test_first_expert_makes_the_student_its_copy():
    stream = experts(2)
    student = exml.models.Normalized(network(4, seed=9), mean=(0.3,), std=(0.5,))
    learner = exml.Learner(noise(student="first-expert"), student)
    learner.learn(stream[0])
    assert same(weights(student.module), weights(stream[0].module))
    learner.learn(stream[1])
    assert not same(weights(student.module), weights(stream[0].module))


@pytest.mark.parametrize(
    "student",
    [network(4, width=5), network(4), exml.models.Normalized(network(4), mean=(0.0,), std=(1.0,))],
    ids=["architecture", "no normalization", "another normalization"],
)
def test_first_expert_that_is_not_like_the_student(student):
    with pytest.raises(ExpertError, match="Normalized"):
        run(noise(student="first-expert"), stream=experts(2), student=student)


# --- bad input ----------------------------------------------------------------------------------------------------


def spoiled(expert):
    with torch.no_grad():
        next(iter(expert.module.parameters())).view(-1)[0] = float("nan")
    return expert


@pytest.mark.parametrize(
    ("expert", "error", "words"),
    [
        (lambda: exml.Expert(network(6), (0, 1), (1, 8, 8), outputs=range(6)), ShapeError, "student that takes images"),
        (lambda: exml.Expert(network(8), (0, 7), SHAPE, outputs=range(8)), ExpertError, "class ids below 6"),
        (lambda: exml.Expert(network(6), (0, 1), SHAPE, outputs=range(5)), ExpertError, r"logits \(2, 5\)"),
        (lambda: exml.Expert(network(6, width=3)[2:], (0, 1), SHAPE, outputs=range(6)), ExpertError, "image_shape"),
        (lambda: spoiled(experts()[0]), NonFiniteError, "NaN or infinity in 0.weight"),
    ],
)
def test_bad_experts_are_refused_before_any_work(expert, error, words):
    student = network()
    before = weights(student)
    learner = exml.Learner(noise(), student)
    with pytest.raises(error, match=words):
        learner.learn(expert())
    assert same(weights(student), before)
    learner.learn(experts()[0])  # the learner still works
    assert learner.experience == 1


@pytest.mark.parametrize("classes", [(1, 1), (), (-1, 0)])
def test_bad_class_ids(classes):
    with pytest.raises(ExpertError):
        exml.Expert(network(), classes, SHAPE)


def test_an_empty_stream():
    with pytest.raises(StreamError, match="at least 1 expert"):
        run(noise(), stream=[])


def test_a_buffer_smaller_than_the_stream_is_refused_before_any_work():
    seen = []
    with pytest.raises(BufferSizeError):
        run(noise(buffer=exml.buffers.Cumulative(2)), observers=[seen.append])
    assert not seen


def test_students_that_are_not_classifiers():
    with pytest.raises(ShapeError, match="one flat classifier"):
        run(noise(), student=nn.Conv2d(1, 1, 1))
    with pytest.raises(NonFiniteError, match="the student"):
        run(noise(), student=spoiled(experts()[0]).module)


class Pupil(nn.Module):
    """A student whose training differs from its evaluation."""

    def __init__(self, training):
        super().__init__()
        self.inside, self.own = network(), training

    def forward(self, images):
        logits = self.inside(images)
        return self.own(logits) if self.training else logits


def fail(logits):
    raise KeyError("training")


def in_inference_mode():
    with torch.inference_mode():
        return network()


def with_extra_state():
    student = network()
    student.register_state_dict_post_hook(lambda module, state, prefix, metadata: state.update(words=["a"]))
    return student


def never_copied():
    student = network()
    student.lock = threading.Lock()
    return student


PUPILS = {
    "frozen": (lambda: network().requires_grad_(False), SettingError, "parameters to train"),
    "auxiliary outputs": (lambda: Pupil(lambda logits: (logits, logits)), SettingError, "only its logits"),
    "fails": (lambda: Pupil(fail), SettingError, r"trains on 4 images.*KeyError: 'training'"),
    "detached": (lambda: Pupil(torch.detach), SettingError, "does not require grad"),
    "not finite": (lambda: Pupil(lambda logits: (logits - logits.detach()).sqrt()), NonFiniteError, "gradient of"),
    "double": (lambda: network().double(), ShapeError, r"torch.float64.*module\.float"),
    "inference": (in_inference_mode, SettingError, "inference tensor"),
    "extra state": (with_extra_state, SettingError, "got words"),
    "not copied": (never_copied, SettingError, "student that can be copied.*pickle"),
}


@pytest.mark.parametrize("kind", PUPILS)
def test_a_student_that_cannot_train_is_refused_before_any_work(kind):
    make, error, words = PUPILS[kind]
    student, seen = make(), []
    before = [weight.clone() for weight in student.parameters()]
    with pytest.raises(error, match=words):
        run(strategy(), student=student, observers=[seen.append])
    assert {type(event) for event in seen} <= {events.ExpertScreened}
    assert all(map(torch.equal, student.parameters(), before))


def test_one_image_and_batch_norm():
    def student():
        return nn.Sequential(nn.Conv2d(1, 4, 6), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 6))

    training = Training(iterations=2, batch_size=1, learning_rate=0.01)
    with pytest.raises(SettingError, match=r"trains on 1 images.*batch_size"):
        run(noise(training=training), student=student())
    run(noise(training=attrs.evolve(training, batch_norm="running")), student=student())


def test_a_partly_frozen_student_with_wrapped_outputs_trains():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = network()

        def forward(self, images):
            return {"logits": self.inside(images), "features": images}

    student = Wrapped()
    student.inside[0].requires_grad_(False)
    before = weights(student)
    run(strategy(), student=student)
    moved = {name for name, tensor in weights(student).items() if not torch.equal(tensor, before[name])}
    assert "inside.5.weight" in moved
    assert "inside.0.weight" not in moved


@pytest.mark.parametrize("part", [slice(None), slice(0, 2), slice(1, 2)])
def test_a_student_that_shares_weights_with_an_expert_is_refused(part):
    expert = experts()[0]
    shared = expert.module[part]
    rest = [] if part == slice(None) else network()[len(shared) :]
    student = nn.Sequential(*([nn.Conv2d(1, 4, 3)] if part.start == 1 else []), *shared, *list(rest)[-4:])
    with pytest.raises(ExpertError, match=r"shares no weights with expert 'e0'.*copy\.deepcopy"):
        exml.Learner(noise(), student).learn(expert)


class Failing(nn.Module):
    """Fails for more images than the checks try, or in the backward pass."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.inside = kind, network(2)

    def forward(self, images):
        if self.kind == "batch" and len(images) > 64:
            raise KeyError("too many")
        if self.kind == "backward":
            images[:, 0] = images[:, 0].clamp(0, 1)
            images.mul_(2)
        return self.inside(images)


@pytest.mark.parametrize("kind", ["batch", "backward"])
def test_a_module_that_fails_late_is_an_expert_error(kind):
    inversion = ModelInversion(iterations=1, learning_rate=0.1, batch_size=80)
    late = strategy(generator=inversion, buffer=exml.buffers.Cumulative(80))
    learner = exml.Learner(late, network(2))
    with pytest.raises(ExpertError, match=r"'late'.*(too many|inplace)"):
        learner.learn(exml.Expert(Failing(kind).eval(), (0, 1), SHAPE, name="late"))
    learner.learn(exml.Expert(network(2), (0, 1), SHAPE))
    assert learner.experience == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_changes_nothing(mode):
    expected = run(strategy(), stream=experts(1), student=network(2))
    stream, learner = experts(1), exml.Learner(strategy(), network(2))
    with mode():
        learner.learn(stream[0])
    assert same(weights(learner.student), weights(expected.student))


@pytest.mark.parametrize(
    ("change", "error"),
    [(torch.detach, ExpertError), (torch.round, ExpertError), (lambda images: images / 0, NonFiniteError)],
)
def test_experts_without_a_pixel_gradient(change, error):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = network()

        def forward(self, images):
            return self.inside(change(images))

    expert = exml.Expert(Flat(), (0, 1), SHAPE, outputs=range(6), name="flat")
    mixed, seen = Mixture((GaussianNoise(), strategy().generator)), []
    learner = exml.Learner(strategy(generator=mixed), network(), observers=[seen.append])
    with pytest.raises(error, match="flat"):
        learner.learn(expert)
    assert {type(event) for event in seen} <= {events.ExpertScreened}
    with pytest.raises(error):
        strategy().generator(expert, 2, 0)
    if error is ExpertError:
        exml.Learner(noise(), network()).learn(expert)


def test_fewer_images_than_classes():
    """Once per learner, and the classes are not always the first ones."""
    few = strategy(buffer=exml.buffers.Reservoir(6, per_experience=3))
    learner = exml.Learner(few, network(12))
    with pytest.warns(ExmlWarning, match="3 images, so that 3 classes have none"):
        learner.learn(exml.Expert(network(6, seed=1), range(6), SHAPE))
    learner.learn(exml.Expert(network(6, seed=2), range(6, 12), SHAPE))
    labels = learner.memory.labels.tolist()
    assert len(set(labels)) == len(labels) == 6
    assert set(labels) != {0, 1, 2, 6, 7, 8}


def test_a_loss_that_explodes_keeps_the_last_checkpoint(tmp_path):
    wild = noise(training=Training(iterations=200, batch_size=4, learning_rate=1e6), augmentation=None)
    learner = exml.Learner(wild, network(), folder=CheckpointFolder(tmp_path, every=10))
    with pytest.raises(NonFiniteError, match="learning rate"):
        learner.learn(experts()[0])
    with pytest.raises(StreamError, match="resume"):
        learner.learn(experts()[0])
    again = exml.Learner(wild, network()).resume(tmp_path)
    assert all(tensor.isfinite().all() for tensor in again.student.state_dict().values())


@attrs.frozen
class Broken:
    """A generator with a fault."""

    fault: str
    uses_priors = False
    uses_real_data = False

    def __call__(self, expert, size, seed, context=None, /):
        images = torch.rand(size - (self.fault == "size"), *expert.image_shape)
        if self.fault == "nan":
            images[0, 0, 0, 0] = float("nan")
        if self.fault == "raise":
            raise RuntimeError("out of ideas")
        if self.fault == "tensor":
            return images
        if self.fault in ("shape", "bytes"):
            return exml.generators.labeled(expert, images[:, :, 1:] if self.fault == "shape" else images.byte())
        labels = torch.full((len(images),), 5 if self.fault == "label" else 0)
        return exml.Samples.of(images.double() if self.fault == "double" else images, labels)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("size", ShapeError, "from Broken"),
        ("label", ShapeError, "from Broken"),
        ("nan", NonFiniteError, "from Broken"),
        ("raise", RuntimeError, "out of ideas"),
        ("tensor", ShapeError, r"Samples from Broken, got \(12, 1, 6, 6\) torch\.float32; remedy: return exml\.gen"),
        (
            "shape",
            ShapeError,
            r"\(batch, 1, 6, 6\) to label, got \(12, 1, 5, 6\) .*; remedy: make images of expert",
        ),
        ("bytes", ShapeError, "to label, got .*uint8; remedy: divide values up to 255 by 255"),
        ("double", ShapeError, r"float32 images from Broken, got .*64; remedy: convert them with \.float\(\)"),
    ],
)
def test_generated_samples_are_checked_and_the_learner_survives(fault, error, words):
    learner = exml.Learner(noise(generator=Broken(fault)), network())
    with pytest.raises(error, match=words):
        learner.learn(experts()[0])
    assert learner.experience == 0
    learner.strategy = noise()
    learner.learn(experts()[1])
    assert learner.experience == 1


@attrs.frozen
class WrongPrior:
    """A prior that returns no 0-dimensional tensor."""

    fault: str
    reads_activations = False

    def __call__(self, images, activations, /):
        return 0.5 if self.fault == "float" else images.square().mean((1, 2, 3))


def wrong_prior(fault):
    """Of a prior that is inside others."""
    return {"generator": ModelInversion(iterations=1), "prior": Sum((L2Norm(0.1), Weighted(WrongPrior(fault), 2.0)))}


@attrs.frozen
class WrongBuffer:
    """A buffer policy with a fault."""

    fault: str

    def share(self, experience, /):
        return 7.5 if self.fault == "share" else 0 if self.fault == "none" else 8

    def __call__(self, memory, new, generator, /):
        return {"empty": new[:0], "tensor": new.images}.get(self.fault)


@attrs.frozen
class Wrong:
    """A combiner or a loss whose outputs have the wrong shape or value."""

    fault: str

    def __call__(self, first, second, third, /):
        if self.fault == "tensor":
            return second.logits
        if self.fault == "float":
            return 0.5
        if self.fault == "target":
            narrow = torch.zeros(2, 1)
            return exml.core.targets.Target(narrow, narrow.bool(), narrow.bool())
        return first.sum(1) if self.fault == "shape" else first.sum() / 0 * 0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"combiner": Wrong("target")}, ShapeError, r"logits \(2, 6\) from Wrong"),
        (
            {"combiner": Wrong("tensor")},
            ShapeError,
            r"a Target from Wrong, got \(2, 6\) .*; remedy: return exml\.prot",
        ),
        ({"loss": Wrong("shape")}, ShapeError, "0-dimensional loss from Wrong"),
        ({"loss": Wrong("float")}, ShapeError, "0-dimensional loss from Wrong, got float; remedy"),
        (wrong_prior("float"), ShapeError, "0-dimensional penalty from WrongPrior, got float; remedy"),
        (wrong_prior("rows"), ShapeError, r"0-dimensional penalty from WrongPrior, got \(2,\) torch.float32; remedy"),
        (
            {"buffer": WrongBuffer("share")},
            SettingError,
            r"at least 1 from WrongBuffer\.share\(3\), got 7\.5",
        ),
        ({"buffer": WrongBuffer("none")}, SettingError, r"at least 1 from WrongBuffer\.share\(3\), got 0"),
        ({"loss": Wrong("nan")}, NonFiniteError, "black images"),
        ({"combiner": MultiTask(((0, 1), (2, 3), (4, 5)))}, ShapeError, "task"),
        ({"generator": ModelInversion(), "prior": GaussianBlur(1.0, kernel_size=31)}, ShapeError, "31x31"),
    ],
)
def test_parts_that_do_not_fit_fail_before_any_work(changes, error, words):
    seen = []
    with pytest.raises(error, match=words):
        run(noise(**changes), observers=[seen.append])
    assert {type(event) for event in seen} <= {events.ExpertScreened}


@pytest.mark.parametrize(("fault", "got"), [("empty", "no sample"), ("tensor", r"\(8, 1, 6, 6\)"), ("nothing", "None")])
def test_the_buffer_of_a_policy_is_checked(fault, got):
    with pytest.raises(ShapeError, match=f"Samples, at least one, from WrongBuffer, got {got}.*; remedy: return rows"):
        run(noise(buffer=WrongBuffer(fault)))


def test_checkpoint_every():
    with pytest.raises(SettingError):
        CheckpointFolder("here", every=0)


# --- killed and stopped -----------------------------------------------------------------------------------------------


VARIANTS = {
    "adam, reset, early stop": strategy(
        student="reset",
        generator=exml.generators.ModelInversion(iterations=5, batch_size=5, stop_at=0.5),
        training=Training(iterations=5, batch_size=4, learning_rate=0.01, optimizer="adam", schedule="one-cycle"),
    ),
    "impression, reservoir": strategy(
        generator=exml.generators.DataImpression(beta=1.0, iterations=4, batch_size=5),
        training=Training(iterations=5, batch_size=4, learning_rate=0.05, momentum=0.9),
        buffer=exml.buffers.Reservoir(9, 6),
    ),
}


@pytest.fixture(scope="module", params=VARIANTS)
def whole(request, tmp_path_factory):
    """A finished run, its folder, and a copy of that folder after each event: what a kill leaves there."""
    place, copies = tmp_path_factory.mktemp("whole"), []

    def copy_folder(_):
        copies.append(tmp_path_factory.mktemp("copy") / "run")
        shutil.copytree(place, copies[-1])

    chosen = VARIANTS[request.param]
    learner = run(
        chosen, stream=experts(2), student=student(), seed=3, folder=every_two(place), observers=[copy_folder]
    )
    return chosen, learner, place, copies


def student(seed=0):
    return network(4, seed=seed, dropout=0.2)


def every_two(folder):
    return CheckpointFolder(folder, every=2)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_resumes(whole, folder):
    """Resume a run in a folder with a fresh student, and compare the end with that of the whole run."""
    chosen, finished, place, _ = whole
    learner = exml.Learner(chosen, student(seed=99), seed=3).resume(every_two(folder))
    learner.learn_stream(exml.ExpertStream.from_experts(experts(2)))
    assert same(weights(learner.student), weights(finished.student)), folder
    assert torch.equal(learner.memory.images, finished.memory.images)
    assert contents(folder) == contents(place), folder


def test_a_run_killed_at_any_event_resumes_to_the_same_bits(whole):
    moments = [folder for folder in whole[-1] if (folder / "checkpoint.json").exists()][::3]
    assert len(moments) > 8
    for folder in moments:
        assert_resumes(whole, folder)


@pytest.mark.parametrize("kind", [events.GenerationProgress, events.BufferUpdated, events.DistillationProgress])
def test_a_stopped_learner_resumes_to_the_same_bits(tmp_path, whole, kind):
    """It returns after the step in which the stop was requested, and that step is in the checkpoint."""
    stop, seen = Stop(), []

    def ask(event):
        seen.append(event)
        if isinstance(event, kind) and event.experience == 2:
            stop.ask()

    settings = {"seed": 3, "folder": tmp_path, "observers": [ask], "stop": stop}
    learner = run(whole[0], stream=experts(2), student=student(), **settings)
    assert learner.experience == 1
    assert isinstance(seen[-1], events.CheckpointWritten)
    assert sum(isinstance(event, kind) and event.experience == 2 for event in seen) == 1
    assert_resumes(whole, tmp_path)


def test_a_resumed_learner_refuses_another_run(tmp_path):
    run(noise(), folder=tmp_path, stream=experts(2), student=network(4))
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        exml.Learner(noise(), network(4), folder=tmp_path)
    with pytest.raises(CheckpointError, match="checkpoint of this strategy"):
        exml.Learner(noise(combiner=ProductOfExperts()), network(4)).resume(tmp_path)
    with pytest.raises(CheckpointError, match="checkpoint of this seed"):
        exml.Learner(noise(), network(4), seed=1).resume(tmp_path)
    with pytest.raises(CheckpointError, match=r"another architecture: 0\.bias is \(5,\) here"):
        exml.Learner(noise(), network(4, width=5)).resume(tmp_path)
    with pytest.raises(StreamError, match="at least 2"):
        exml.Learner(noise(), network(4)).resume(tmp_path).learn_stream(exml.ExpertStream.from_experts(experts(1)))


def test_an_experience_resumes_with_its_own_expert_only(tmp_path):
    stop = Stop()

    def ask(event):
        if isinstance(event, events.DistillationProgress):
            stop.ask()

    run(noise(), folder=tmp_path, observers=[ask], stop=stop)
    learner = exml.Learner(noise(), network(dropout=0.2)).resume(tmp_path)
    with pytest.raises(StreamError, match="was started"):
        learner.learn(experts()[1])


def test_a_stop_between_two_experiences():
    stop = Stop()

    def ask(event):
        if isinstance(event, events.ExperienceFinished):
            stop.ask()

    learner = run(noise(), observers=[ask], stop=stop)
    assert (learner.experience, learner.classes_seen) == (1, (0, 1))
    learner.stop = None
    learner.learn(experts()[1])
    assert learner.experience == 2


@pytest.mark.parametrize("kind", ["checkpoint", "history", "state", "memory"])
def test_damaged_files_are_refused_in_one_message(tmp_path, kind):
    run(noise(), folder=tmp_path)
    (path,) = tmp_path.glob(f"{kind}*")
    whole = path.read_bytes()
    places = random.Random(0).sample(range(8 * len(whole)), 20)
    flipped = [whole[: at // 8] + bytes([whole[at // 8] ^ 1 << at % 8]) + whole[at // 8 + 1 :] for at in places]
    for data in (*flipped, whole[:-10], whole[:20], b"", None):
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(CheckpointError, match=path.name):
            exml.Learner(noise(), network()).resume(tmp_path)
        path.write_bytes(whole)
    assert exml.Learner(noise(), network()).resume(tmp_path).experience == 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"experience": -1}, ">= 0 for RunState.experience at run, got -1"),
        ({"experience": "3"}, "type int at run.experience, got '3'"),
        ({"phase": "asleep"}, "'idle', 'generation', 'distillation' at run.phase, got 'asleep'"),
        ({"phase": "distillation"}, "in_flight that fits .* 'distillation'"),
        ({"steps": 2}, "steps that fits"),
        ({"memory": None}, "memory that fits"),
        ({"memory": "../x"}, "a SHA-256 in hexadecimal for RunState.memory"),
        ({"history": None}, "history that fits"),
        ({"note": {}}, "note that fits"),
        ({"note": 3}, r"run.note, got 3"),
        ({"known": [0, -1]}, ">= 0 for RunState.known"),
        ({"experience": 0, "history": None}, "known that fits"),
        ({"more": 1}, "one of the keys .* at run.more"),
    ],
)
def test_a_record_is_validated_as_a_strategy_is(tmp_path, change, complaint):
    run(noise(), folder=tmp_path)
    record = attrs.asdict(read_record(tmp_path / "checkpoint.json", CheckpointRecord))
    record["run"] |= change
    fields = {name: attrs.field(default=value) for name, value in record.items()}
    write_record(tmp_path / "checkpoint.json", attrs.make_class("Changed", fields)())
    with pytest.raises(CheckpointError, match=f"version 2 in .*checkpoint.json.*{complaint}"):
        exml.Learner(noise(), network()).resume(tmp_path)


def test_a_checkpoint_of_other_tensors_is_refused(tmp_path):
    learner = exml.Learner(noise(student="reset"), network(), folder=tmp_path)
    learner.learn(experts()[0])
    folder, asked = CheckpointFolder(tmp_path), identity(learner.strategy, 0)
    states = {"student": learner.student.state_dict()}
    for groups, complaint in ((states, "all tensors.*'initial'"), ({"other": states["student"]}, "the student of")):
        folder.write(asked, learner._run, groups)
        with pytest.raises(CheckpointError, match=complaint):
            exml.Learner(learner.strategy, network()).resume(tmp_path)


def test_a_resumed_learner_states_another_number_of_threads(tmp_path):
    run(noise(), folder=tmp_path)
    torch.set_num_threads(2)
    try:
        with pytest.warns(ExmlWarning, match=r"1 thread\(s\), and torch has 2 now.*OMP_NUM_THREADS"):
            exml.Learner(noise(), network()).resume(tmp_path)
    finally:
        torch.set_num_threads(1)


def test_the_checkpoint_keeps_notes_and_losses(tmp_path):
    stop, learner = Stop(), exml.Learner(noise(), network(dropout=0.2), folder=tmp_path)
    learner.learn(experts()[0], note={"file": "a"})
    learner.observers.append(lambda event: isinstance(event, events.DistillationProgress) and stop.ask())
    learner.stop = stop
    learner.learn(experts()[1], note={"file": "b"})
    history = exml.Learner(noise(), network(dropout=0.2)).resume(tmp_path).history
    assert history == learner.history
    assert [(done["file"], len(done["screened"])) for done in history] == [("a", 0), ("b", 0)]
    assert history[0]["loss"] > 0
    assert "loss" not in history[1]


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    learner = exml.Learner(noise(), network(), folder=tmp_path, seed=2)
    learner.learn(experts()[0])
    before = contents(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("exml.core.files.save_file", full)
        with pytest.raises(CheckpointError, match="No space left"):
            learner.learn(experts()[1])
    assert contents(tmp_path) == before
    again = exml.Learner(noise(), network(), seed=2).resume(tmp_path)
    again.learn_stream(exml.ExpertStream.from_experts(experts()))
    assert same(weights(again.student), weights(run(noise(), student=network(), seed=2).student))


def test_a_strategy_that_cannot_be_stored_is_refused_at_once(tmp_path):
    with pytest.raises(CheckpointError, match=r"@exml\.component"):
        exml.Learner(noise(generator=Broken("none")), network(), folder=tmp_path)


def test_partial_files_of_a_killed_run_are_removed(tmp_path):
    run(noise(), folder=tmp_path)
    whole = contents(tmp_path)
    for name in (".state.safetensors.123.part", ".tmpRFRaCm"):  # the latter is what safetensors leaves
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "state-0123456789abcdef.safetensors").write_bytes(b"of a record that was never written")
    (tmp_path / "other.safetensors").write_bytes(b"not ours")
    exml.Learner(noise(), network()).resume(tmp_path)
    assert contents(tmp_path) == {**whole, "other.safetensors": b"not ours"}


def test_memory_does_not_grow_with_the_stream():
    """120 experts, one at a time: neither Python objects nor tensors accumulate after the tenth."""
    quick = noise(
        training=Training(iterations=1, batch_size=2, learning_rate=0.01), buffer=exml.buffers.Cumulative(240)
    )

    def load(i):
        return exml.Expert(network(6, seed=i), (i % 6, (i + 1) % 6), SHAPE, outputs=range(6))

    stream = exml.ExpertStream([lambda i=i: load(i) for i in range(120)])
    held = {}

    def measure(event):
        if isinstance(event, events.ExperienceFinished) and event.experience in (10, 120):
            gc.collect()
            things = gc.get_objects()
            # Of these types alone: a compiler that ran before may have left tensors without memory.
            tensors = [thing for thing in things if type(thing) in (torch.Tensor, nn.Parameter)]
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)  # some are sparse
            held[event.experience] = len(things), len(tensors), size

    exml.Learner(quick, network(), observers=[measure]).learn_stream(stream)
    (objects, tensors, size), (later_objects, later_tensors, later_size) = held[10], held[120]
    assert later_tensors <= tensors
    assert later_size <= size
    assert later_objects - objects < 110  # not even one small object per expert


def witnesses(*poisons, count=3):
    """Experts of the same four classes, which agree, and poisoned ones."""
    weights = 0.5 * torch.randn(4, 36, generator=torch.Generator().manual_seed(0))
    made = []
    for place, poison in enumerate([*[None] * count, *poisons]):
        head = nn.Linear(36, 4)
        own = weights + 0.1 * torch.randn(4, 36, generator=torch.Generator().manual_seed(place + 1))
        rows = {"permuted": own.roll(1, 0), "scaled": 1e4 * own}.get(poison, own)
        head.load_state_dict({"weight": rows, "bias": torch.zeros(4)})
        module = nn.Sequential(nn.Flatten(), head)
        made.append(exml.Expert(module, (0, 1, 2, 3), SHAPE, mean=(0.3,), std=(0.5,), name=poison or f"sound{place}"))
    return made


def calm(**changes):
    training = Training(iterations=2, batch_size=4, learning_rate=1e-6)
    return noise(training=training, buffer=exml.buffers.Cumulative(20), **changes)


class TestSuspects:
    @pytest.mark.parametrize("poison", ["permuted", "scaled"])
    @pytest.mark.parametrize("position", [0, 1, 3])
    def test_a_refused_expert_leaves_the_student_of_the_stream_without_it(self, tmp_path, poison, position):
        stream = witnesses(poison)
        stream.insert(position, stream.pop())
        seen = []
        learner = run(calm(on_suspect="refuse"), stream=stream, folder=tmp_path, observers=[seen.append])
        control = run(calm(), stream=[expert for expert in stream if expert.name != poison])
        assert same(weights(learner.student), weights(control.student))
        refused = [event.file for event in seen if isinstance(event, events.ExpertRefused)]
        found = [event.screening for event in seen if isinstance(event, events.ExpertScreened)]
        assert refused == [poison] == [one.expert for one in found if one.reasons and not one.learned]
        again = exml.Learner(calm(on_suspect="refuse"), network(dropout=0.2)).resume(tmp_path)
        again.learn_stream(exml.ExpertStream.from_experts([*stream, witnesses(count=4)[3]]))
        assert again.experience == 4  # one more

    def test_one_expert_is_refused_by_an_error(self):
        learner = exml.Learner(calm(on_suspect="refuse"), network())
        with pytest.raises(SuspectError, match="expected a sound expert 'scaled', got a suspect one, because the root"):
            learner.learn(witnesses("scaled")[-1])
        learner.learn(witnesses()[0])
        assert learner.experience == 1

    def test_by_default_the_learner_warns_and_learns(self):
        with pytest.warns(ExmlWarning, match="expert 'permuted' is suspect, because it contradicts"):
            assert run(calm(), stream=witnesses("permuted")).experience == 4

    def test_accepted_experts_are_silent(self):
        seen = []
        run(calm(on_suspect="accept"), stream=witnesses("permuted"), observers=[seen.append])
        found = [event.screening for event in seen if isinstance(event, events.ExpertScreened)]
        assert [bool(one.reasons) for one in found] == [False, False, False, True]

    def test_an_earlier_expert_is_named_when_later_ones_outvote_it(self):
        """Without a preview, the second expert is undecided, and the third decides."""
        stream, seen = witnesses("permuted", count=2), []
        learner = exml.Learner(calm(on_suspect="accept"), network(), observers=[seen.append])
        for expert in (stream[2], *stream[:2]):
            learner.learn(expert)
        found = [event.screening for event in seen if isinstance(event, events.ExpertScreened)]
        named = [(one.expert, bool(one.reasons), bool(one.doubts)) for one in found]
        assert named[:2] == [("permuted", False, False), ("sound0", False, True)]
        assert named[2:] == [("sound1", False, False), ("permuted", True, False)]

    def test_a_resumed_learner_has_the_same_witnesses(self, tmp_path):
        stream = witnesses("permuted")
        learner = exml.Learner(calm(), network(), folder=tmp_path)
        for expert in stream[:3]:
            learner.learn(expert)
        again = exml.Learner(calm(), network()).resume(tmp_path)
        again.on_suspect = "refuse"
        with pytest.raises(SuspectError, match="contradicts 'sound0', 'sound1', 'sound2'"):
            again.learn(stream[3])

    def test_experts_that_cannot_be_loaded_are_reported_in_their_turn(self):
        def fail():
            raise ExpertError(expected="a sound file", got="none", remedy="get one")

        learner = exml.Learner(calm(), network())
        with pytest.raises(ExpertError, match="a sound file"):
            learner.learn_stream(exml.ExpertStream([witnesses()[0], fail]))
        assert learner.experience == 1
