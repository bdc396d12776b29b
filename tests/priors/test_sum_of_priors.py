"""Combinations of priors and of augmentations."""

import torch

from exml.augmentation import Augmentation, Chain, Kornia
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm, Sum, Weighted, record_activations


def test_sum_and_weight_nest():
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    net = torch.nn.BatchNorm2d(3).double().eval()
    l2, blur, bn = L2Norm(0.3), GaussianBlur(0.2), BatchNormStatistics(2.0)
    with record_activations(net) as activations:
        net(x)
        penalty = Sum([Weighted(Sum((l2, blur)), 0.5), bn])(x, activations)
        wanted = 0.5 * (l2(x, ()) + blur(x, ())) + bn(x, activations)
    torch.testing.assert_close(penalty, wanted, rtol=1e-12, atol=0)


def test_sum_of_nothing_is_zero():
    penalty = Sum(())(torch.randn(2, 1, 3, 3, dtype=torch.float64), ())
    assert penalty.item() == 0
    assert penalty.dtype == torch.float64


def test_a_combination_reads_activations_if_a_part_does():
    pixels, layers = L2Norm(1.0), BatchNormStatistics(1.0)
    assert not Sum(()).reads_activations
    assert not Sum((pixels, Weighted(pixels, 2.0))).reads_activations
    assert Sum((pixels, Weighted(Sum((layers,)), 2.0))).reads_activations


def test_chain_goes_in_order_with_one_generator():
    x = torch.rand(4, 3, 6, 6)
    perspective = Kornia("RandomPerspective", {"p": 1.0})
    parts = Augmentation(shift=1), perspective, Augmentation(contrast=0.5), Augmentation(brightness=0.5)
    generator = torch.Generator().manual_seed(3)
    wanted = x
    for part in parts:
        wanted = part(wanted, generator)
    assert torch.equal(Chain(parts)(x, torch.Generator().manual_seed(3)), wanted)
    assert Chain(())(x, generator) is x
