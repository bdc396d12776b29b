"""Expert: what its card says must hold, and its outputs lie where the card says."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exml.core.errors import ExpertError, NonFiniteError
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
    assert expert.labels(images).tolist() == [classes[int(row.argmax())] for row in own]


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
    ],
)
def test_a_card_that_contradicts_itself(fields: dict[str, object], expected: str) -> None:
    fields = {"image_shape": (3, 8, 8), **fields}
    with pytest.raises(ExpertError, match=expected):
        Expert(nn.Identity(), **fields)  # type: ignore[arg-type]


def test_check_asks_it_once_and_leaves_it_as_it_was() -> None:
    module = nn.Sequential(nn.BatchNorm2d(2), linear(3).float())
    before = copy.deepcopy(module.state_dict())
    Expert(module, (0, 1, 2), (2, 2, 2)).check(3)
    assert module.training
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())


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
