"""The normalizers against NumPy and scikit-learn in float64, over the known classes only."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import normalize, scale

from exml.core.errors import SettingError
from exml.normalizers import CenterLogits, L2NormalizeLogits, RawLogits, StandardizeLogits

KNOWN = torch.tensor([True, False, True, True, False])
NORMALIZERS = [RawLogits(), CenterLogits(), StandardizeLogits(), L2NormalizeLogits()]


def logits():
    return 3 + 5 * torch.randn(6, 5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("normalizer", "oracle"),
    [
        (RawLogits(), lambda z: z),
        (CenterLogits(), lambda z: scale(z, axis=1, with_std=False)),
        (StandardizeLogits(), lambda z: scale(z, axis=1)),
        (L2NormalizeLogits(), lambda z: normalize(z, axis=1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_known_classes_agree_with_scikit_learn(normalizer, oracle):
    z = logits()
    np.testing.assert_allclose(normalizer(z, KNOWN)[:, KNOWN], oracle(z[:, KNOWN].numpy()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("normalizer", NORMALIZERS, ids=repr)
class TestEveryNormalizer:
    def test_changes_every_column_alike(self, normalizer):
        """The straight line fitted to the known classes of a row also maps the unknown ones."""
        z = logits()
        y = normalizer(z, KNOWN)
        for before, after in zip(z.numpy(), y.numpy(), strict=True):
            slope, offset = np.polyfit(before[KNOWN], after[KNOWN], 1)
            np.testing.assert_allclose(after, slope * before + offset, atol=1e-9)

    def test_does_not_look_at_unknown_classes(self, normalizer):
        z = logits()
        other = z.masked_fill(~KNOWN, 1e6)
        torch.testing.assert_close(normalizer(z, KNOWN)[:, KNOWN], normalizer(other, KNOWN)[:, KNOWN])

    @pytest.mark.parametrize("known", [(), (2,), (0, 1, 2, 3, 4)], ids=["no class", "one class", "all"])
    @pytest.mark.parametrize("value", [0.0, 4.0])
    def test_equal_logits_stay_finite_and_moderate(self, normalizer, known, value):
        z = torch.full((2, 5), value, requires_grad=True)
        mask = torch.zeros(5, dtype=torch.bool)
        mask[list(known)] = True
        y = normalizer(z, mask)
        y.sum().backward()
        assert y.isfinite().all()
        assert y.abs().max() <= 4
        assert z.grad.isfinite().all()

    def test_leaves_a_teacher_that_knows_nothing_alone(self, normalizer):
        z = logits()
        assert torch.equal(normalizer(z, torch.zeros(5, dtype=torch.bool)), z)


def test_one_known_class_does_not_blow_up_the_others():
    z = torch.tensor([[1.0, 5.0, -3.0]])
    one = torch.tensor([True, False, False])
    torch.testing.assert_close(StandardizeLogits()(z, one), torch.tensor([[0.0, 4.0, -4.0]]))


@given(offset=st.floats(-50, 50), factor=st.floats(0.01, 100))
def test_what_each_one_takes_away(offset, factor):
    z = logits()
    for normalizer, change in (
        (CenterLogits(), lambda z: z + offset),
        (StandardizeLogits(), lambda z: factor * z + offset),
        (L2NormalizeLogits(), lambda z: factor * z),
    ):
        torch.testing.assert_close(normalizer(change(z), KNOWN), normalizer(z, KNOWN), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("cls", [StandardizeLogits, L2NormalizeLogits])
def test_eps_is_not_negative(cls):
    with pytest.raises(SettingError, match="eps"):
        cls(eps=-1e-3)
