"""Expert: what its card says must hold, and its outputs lie where the card says."""

import copy
import warnings
from collections import namedtuple
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exml.core.errors import ExmlWarning, ExpertError, NonFiniteError
from exml.experts import Expert


def linear(outputs: int, pixels: int = 8) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(outputs)
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, outputs)).double()


@given(ids=st.lists(st.integers(0, 9), min_size=1, max_size=8, unique=True), spare=st.integers(0, 3), data=st.data())
@settings(max_examples=50, deadline=None)
def test_each_logit_is_laid_out_in_the_column_of_its_class(ids: list[int], spare: int, data: st.DataObject) -> None:
    outputs = data.draw(st.permutations([*ids, *[None] * spare]))
    classes = data.draw(st.lists(st.sampled_from(ids), min_size=1, unique=True))
    width = data.draw(st.integers(max(ids) + 1, 12))
    expert = Expert(linear(len(outputs)), classes, (2, 2, 2), outputs=outputs)
    images = torch.rand(3, 2, 2, 2, dtype=torch.float64)
    raw = expert.module(images)
    taught = expert.teach(images, width)
    expected = torch.zeros(3, width, dtype=torch.float64)
    for unit, column in enumerate(outputs):
        if column is not None:
            expected[:, column] = raw[:, unit]
    assert torch.equal(taught.logits, expected)
    assert taught.known.tolist() == [column in classes for column in range(width)]
    assert taught.present.tolist() == [column in ids for column in range(width)]
    own = expert.own_logits(raw)
    assert torch.equal(own, expected[:, list(classes)])
    assert expert.predicted_ids(images).tolist() == [classes[int(row.argmax())] for row in own]


def test_normalize_is_per_channel_and_has_an_inverse() -> None:
    expert = Expert(linear(2), (0, 1), (2, 2, 2), mean=(0.25, 0.5), std=(0.5, 0.125))
    images = torch.rand(3, 2, 2, 2, dtype=torch.float64)
    expected = torch.stack([(images[:, 0] - 0.25) / 0.5, (images[:, 1] - 0.5) / 0.125], 1)
    torch.testing.assert_close(expert.normalize(images), expected)
    torch.testing.assert_close(expert.denormalize(expected), images)
    torch.testing.assert_close(expert.logits(images), expert.module(expected))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"classes": ()}, "at least one class"),
        ({"classes": (1, 1)}, "each class id once"),
        ({"classes": (0,), "outputs": (0, 2, 2)}, "each class id once"),
        ({"classes": (0, -1)}, "class ids from 0"),
        ({"classes": (0, 5), "outputs": (0, 1, None)}, "output unit for every class"),
        ({"classes": (0, 1), "image_shape": (8, 8)}, "image_shape"),
        ({"classes": (0, 1), "image_shape": (1, 0, 8)}, "image_shape"),
        ({"classes": (0, 1), "mean": (0.0, 0.0)}, "1 or 3 channels"),
        ({"classes": (0, 1), "std": (0.0,)}, "std > 0"),
        ({"classes": {9, 1, 8}}, "classes in order.*got a set"),
        ({"classes": "01"}, "classes in order.*got a str"),
        ({"classes": (0, 1), "outputs": {0: 0, 1: 1}}, "outputs in order.*got a dict"),
        ({"classes": (0, 1.5)}, "integer class ids"),
        ({"classes": (0, 2**24)}, "class ids below"),
        ({"classes": (0, 1), "image_shape": (3, 10**5, 10**5)}, "image_shape"),
        ({"classes": (0, 1), "mean": 0.5}, "mean in order.*got a float"),
        ({"classes": (0, 1), "mean": ("a",)}, "mean and std of 1 or 3"),
        ({"classes": (0, 1), "mean": (float("nan"),)}, "in pixel units"),
        ({"classes": (0, 1), "mean": (123.675,), "std": (58.395,)}, "by 255"),
        ({"classes": (0, 1), "module": len}, "torch.nn.Module"),
    ],
)
def test_a_card_that_contradicts_itself(fields: dict[str, object], expected: str) -> None:
    fields = {"module": nn.Identity(), "image_shape": (3, 8, 8), **fields}
    with pytest.raises(ExpertError, match=expected):
        Expert(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "classes", [[9, 1, 8], torch.tensor([9, 1, 8]), np.array([9, 1, 8]), list(np.array([9, 1, 8]))]
)
def test_classes_keep_their_order_as_plain_integers(classes: Any) -> None:
    expert = Expert(linear(3), classes, (2, 2, 2))
    assert expert.classes == expert.outputs == (9, 1, 8)
    assert all(type(known) is int for known in expert.classes)


@pytest.mark.parametrize("use", ["check", "check_gradient", "logits", "predicted_ids", "teach"])
def test_the_module_stays_as_it_was(use: str) -> None:
    module = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(), linear(3).float())
    module[1].eval()
    before = copy.deepcopy(module.state_dict())
    images = torch.rand(4, 2, 2, 2)
    arguments = {"check": (3,), "check_gradient": ()}.get(use, (images, 3) if use == "teach" else (images,))
    getattr(Expert(module, (0, 1, 2), (2, 2, 2)), use)(*arguments)
    assert [part.training for part in module.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(weight.grad is None for weight in module.parameters())


class Stranger(nn.Module):
    """A linear classifier with a forward pass of its own."""

    def __init__(self, forward: Callable[[nn.Module, torch.Tensor], object], inside: nn.Module | None = None) -> None:
        super().__init__()
        self.inside = linear(3).float() if inside is None else inside
        self.own = forward

    def forward(self, images: torch.Tensor) -> object:
        return self.own(self.inside, images)


def raising(error: BaseException, when: Callable[[torch.Tensor], bool] = lambda images: True) -> nn.Module:
    def forward(inside: nn.Module, images: torch.Tensor) -> object:
        if when(images):
            raise error
        return inside(images)

    return Stranger(forward)


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError


def returning(change: Callable[[torch.Tensor], object]) -> nn.Module:
    return Stranger(lambda inside, images: change(inside(images)))


def with_weight(weight: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    module = linear(3).float().requires_grad_(False)
    module[1].weight = nn.Parameter(weight(module[1].weight), requires_grad=False)
    return module


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return linear(3).float()


BROKEN = {
    "assert": (raising(AssertionError("height (2) is not 224")), "AssertionError: height"),
    "key": (raising(KeyError("logits")), "KeyError: 'logits'"),
    "exit": (raising(SystemExit(3)), "SystemExit: 3"),
    "silent": (raising(RecursionError()), "got RecursionError;"),
    "unprintable": (raising(UnprintableError()), "got .*UnprintableError"),
    "lines": (raising(ValueError("one\ntwo")), "ValueError: one;"),
    "noise": (raising(ValueError("noise"), lambda images: bool(images.any())), "ValueError: noise"),
    "black": (raising(ValueError("black"), lambda images: not images.all()), "ValueError: black"),
    "one": (raising(ValueError("one"), lambda images: len(images) == 1), "ValueError: one"),
    "tasks": (Stranger(lambda inside, images, tasks: inside(images)), "missing 1 required positional"),  # type: ignore[misc]
    "tuple": (returning(lambda logits: (logits, logits)), r"tuple of \(2, 3\), \(2, 3\).*only its logits"),
    "none": (returning(lambda logits: None), "got NoneType"),
    "numpy": (returning(lambda logits: logits.numpy()), "got ndarray"),
    "squeezed": (returning(torch.squeeze), r"logits \(1, 3\).*got \(3,\).*flatten"),
    "maps": (returning(lambda logits: logits[:, :, None, None]), r"got \(2, 3, 1, 1\).*flatten"),
    "integers": (returning(torch.Tensor.long), "torch.int64.*logits.float"),
    "half logits": (returning(torch.Tensor.half), "torch.float16.*logits.float"),
    "half": (linear(3).half(), r"torch.float16.*module\.float"),
    "bfloat16": (linear(3).bfloat16(), r"torch.bfloat16.*module\.float"),
    "double": (linear(3), r"torch.float64.*module\.float"),
    "lazy": (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "1.weight is uninitialized"),
    "meta": (linear(3).float().to("meta"), "1.weight is on the meta device"),
    "sparse": (with_weight(torch.Tensor.to_sparse), "1.weight is sparse"),
    "inference": (in_inference_mode(), r"1.weight is an inference tensor.*inference_mode\(\)"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_whatever_a_module_does_is_an_error_of_its_own(kind: str) -> None:
    module, expected = BROKEN[kind]
    with pytest.raises(ExpertError, match=expected) as caught:
        Expert(module, (0, 1, 2), (2, 2, 2), name="stranger").check()
    assert "expert 'stranger'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_interrupt_is_no_error_of_the_expert() -> None:
    with pytest.raises(KeyboardInterrupt):
        Expert(raising(KeyboardInterrupt()), (0, 1, 2), (2, 2, 2)).check()


def extra_state() -> nn.Module:
    module = linear(3).float()
    module.register_state_dict_post_hook(lambda module, state, prefix, metadata: state.update(extra={"words": ["a"]}))
    return module


def frozen_script() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.freeze(torch.jit.trace(linear(3).float().eval(), torch.zeros(2, 2, 2, 2)))


SOUND = {
    "linear": linear(3).float(),
    "extra state": extra_state(),
    "bfloat16 inside": Stranger(lambda inside, images: inside(images.bfloat16()).float(), linear(3).bfloat16()),
    "limited range": raising(ValueError("far"), lambda images: bool(images.abs().max() > 50)),
    "constant": returning(torch.zeros_like),
    "one unit": nn.Sequential(linear(1).float(), nn.Sigmoid()),
    "ReLU": nn.Sequential(linear(3).float(), nn.ReLU()),
    "log": nn.Sequential(linear(3).float(), nn.LogSoftmax(1)),
    "dropout": nn.Sequential(linear(3).float(), nn.Dropout()),
    "frozen script": frozen_script(),
}


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_module_is_accepted_in_silence(kind: str) -> None:
    classes = range(1 if kind == "one unit" else 3)
    expert = Expert(SOUND[kind], classes, (2, 2, 2))
    expert.check(3)
    assert len(expert.fingerprint()) == 64


DOUBTFUL = {
    "random": (returning(lambda logits: nn.functional.dropout(logits)), "other logits at every call"),
    "batch": (nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), linear(3).float()), "rest of the batch"),
    "softmax": (nn.Sequential(linear(3).float(), nn.Softmax(1)), "probabilities"),
    "sigmoid": (nn.Sequential(linear(3).float(), nn.Sigmoid()), "probabilities"),
    "mean": (linear(3).float(), "mean and std"),
}


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_a_doubtful_module_causes_a_warning(kind: str) -> None:
    module, expected = DOUBTFUL[kind]
    with pytest.warns(ExmlWarning, match=expected):
        Expert(module, (0, 1, 2), (2, 2, 2), mean=(3.0 if kind == "mean" else 0.0,)).check()


def outputs(kind: str, logits: torch.Tensor) -> object:
    named = namedtuple("Named", "logits auxiliary")
    return {
        "tuple": (logits, None),
        "list": [logits[:, :, None, None], logits],
        "mapping": {"loss": None, "logits": logits, "auxiliary": logits},
        "object": SimpleNamespace(logits=logits),
        "named": named(logits, logits),
    }[kind]


@pytest.mark.parametrize("kind", ["tuple", "list", "mapping", "object", "named"])
def test_obvious_logits_are_unwrapped(kind: str) -> None:
    inside = linear(3).float()
    expert = Expert(Stranger(lambda inside, images: outputs(kind, inside(images)), inside), (0, 1, 2), (2, 2, 2))
    images = torch.rand(4, 2, 2, 2)
    expert.check(unwrap=True)
    assert torch.equal(expert.logits(images), inside(images))
    assert torch.equal(expert.teach(images, 3).logits, inside(images))
    with pytest.raises(ExpertError, match="only its logits"):
        expert.check()


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        (torch.detach, ExpertError, "got none"),
        (torch.round, ExpertError, "got 0 for every pixel"),
        (lambda pixels: (pixels - pixels.detach()).sqrt(), NonFiniteError, "got NaN"),
    ],
)
def test_check_gradient(change: Any, error: type[Exception], expected: str) -> None:
    expert = Expert(Stranger(lambda inside, images: inside(change(images))), (0, 1, 2), (2, 2, 2))
    with pytest.raises(error, match=f"gradient.*pixels.*expert 'expert'.*{expected}"):
        expert.check_gradient()
    Expert(nn.Sequential(linear(3).float(), nn.Softmax(1)), (0, 1, 2), (2, 2, 2)).check_gradient()


def test_check_names_what_is_wrong() -> None:
    module = linear(3).float()
    with pytest.raises(ExpertError, match="class ids below 2"):
        Expert(module, (0, 1, 2), (2, 2, 2)).check(2)
    with pytest.raises(ExpertError, match=r"logits \(2, 4\)"):
        Expert(module, (0, 1, 2), (2, 2, 2), outputs=(0, 1, 2, 3)).check()
    with pytest.raises(ExpertError, match="takes images"):
        Expert(module, (0, 1, 2), (2, 3, 3)).check()
    with torch.no_grad():
        module[1].bias[1] = float("inf")
    with pytest.raises(NonFiniteError, match=r"1\.bias"):
        Expert(module, (0, 1, 2), (2, 2, 2)).check()


def test_fingerprint_is_of_the_weights_and_the_classes() -> None:
    expert = Expert(linear(2), (0, 1), (2, 2, 2), name="a")
    assert expert.fingerprint() == Expert(copy.deepcopy(expert.module), (0, 1), (2, 2, 2), name="b").fingerprint()
    assert expert.fingerprint() != Expert(expert.module, (1, 0), (2, 2, 2)).fingerprint()
    changed = copy.deepcopy(expert.module)
    with torch.no_grad():
        changed[1].weight[0, 0] += 1e-9
    assert expert.fingerprint() != Expert(changed, (0, 1), (2, 2, 2)).fingerprint()


def test_labels_name_the_classes() -> None:
    """A label for each class; the ids are 0, 1, ... by default."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    expert = Expert(module, labels=["cat", "dog"], image_shape=(1, 2, 2))
    assert (expert.classes, expert.outputs, expert.labels) == ((0, 1), (0, 1), ("cat", "dog"))
    other = Expert(module, (3, 7), (1, 2, 2), labels=("cat", "dog"))
    assert (other.classes, other.labels) == ((3, 7), ("cat", "dog"))
    assert expert.fingerprint() != attrs.evolve(expert, labels=None).fingerprint()


@pytest.mark.parametrize(
    "labels", [["cat"], ["cat", "cat"], ["cat", " "], ["cat", 3], {"cat", "dog"}, "cd", ["cat", "x" * 1_001]]
)
def test_labels_that_are_no_names(labels: Any) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ExpertError):
        Expert(module, (0, 1), (1, 2, 2), labels=labels)
