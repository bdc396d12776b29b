"""Evolved drawings: ranges, balance, and that chains climb without a gradient."""

import pytest
import torch
from torch import nn

from exml.experts import Expert
from exml.generators import EvolvedDrawings
from exml.generators.evolved import curves_of, fill, mutated, random_genes, render
from exml.testing import check_generator

SHAPES = [(1, 8, 8), (3, 12, 9), (2, 5, 12)]


class Sides(nn.Module):
    """Three classes: light on the left, light on the right, dark. There is no gradient."""

    @torch.no_grad()
    def forward(self, images):
        left, right = (side.mean((1, 2, 3)) for side in images.tensor_split(2, dim=3))
        return 20 * torch.stack([left - right, right - left, 0.2 - left - right], 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_conforms(shape):
    check_generator(EvolvedDrawings(steps=3, snapshots=4, pool=12, polarity="any"), shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("polarity", ["light", "dark", "any"])
@pytest.mark.parametrize("filled", [0.0, 0.5])
def test_drawings_within_the_range_of_pixels(shape, polarity, filled):
    genes = random_genes(50, shape[0], torch.Generator().manual_seed(0), filled)
    for _ in range(20):
        genes = mutated(genes, torch.Generator().manual_seed(1))
    images = render(genes, shape, polarity)
    assert images.shape == (50, *shape)
    assert float(images.amin()) >= 0
    assert float(images.amax()) <= 1
    assert float(images.flatten(1).std(1).median()) > 0.05


@pytest.mark.parametrize("mirrored", [False, True])
def test_ink_is_where_the_outline_winds_round(mirrored):
    """The winding number from angles, away from the soft edges."""
    size = 40
    genes = dict(random_genes(8, 1, torch.Generator().manual_seed(0), filled=1.0))
    genes |= {"mirrored": torch.full((8, 1), mirrored), "pen": torch.zeros(8, 1), "strokes": torch.ones(8, 1)}
    curves = curves_of(genes, (1, size, size))
    ink = fill(genes, curves, (1, size, size))[:, 0]
    ink /= ((1 - 0.9 * genes["ink"][:, 0]) * (1 + 2 * genes["gain"]))[..., None]
    outline = curves[:, 0]
    if mirrored:
        outline = torch.cat([outline, torch.tensor([size, 0]) + outline.flip(1) * torch.tensor([-1, 1])], 1)
    outline = torch.lerp(outline[:, :, None], outline.roll(-1, 1)[:, :, None], torch.linspace(0, 1, 8)[:, None])
    y, x = torch.meshgrid(*[torch.arange(size) + 0.5] * 2, indexing="ij")
    away = outline.flatten(1, 2)[:, None, None] - torch.stack((x, y), -1)[..., None, :]
    turns = torch.atan2(away[..., 1], away[..., 0]).diff(dim=-1)
    turns = (turns + torch.pi).remainder(2 * torch.pi) - torch.pi
    winding = (turns.sum(-1) / (2 * torch.pi)).round().abs().clamp_max(1)
    clear = away.norm(dim=-1).amin(-1) > 4
    assert float((clear & (winding == 1)).float().mean()) > 0.02
    torch.testing.assert_close(ink[clear], winding[clear], rtol=0, atol=0.05)


def test_a_mutation_leaves_its_parents_as_they_are():
    genes = random_genes(40, 1, torch.Generator().manual_seed(0))
    before = {name: gene.clone() for name, gene in genes.items()}
    children = mutated(genes, torch.Generator().manual_seed(1))
    assert all(torch.equal(genes[name], gene) for name, gene in before.items())
    changed = torch.stack([(children[name] != gene).flatten(1).any(1) for name, gene in before.items()])
    assert 0.7 < float(changed.any(0).float().mean()) <= 1
    assert not changed[list(before).index("ink")].all()


def test_chains_climb_to_every_class_of_an_expert_without_a_gradient():
    expert = Expert(Sides(), (4, 0, 7), (1, 12, 12))
    samples = EvolvedDrawings(steps=40, snapshots=1, copies=1, pool=100)(expert, 60, 0)
    assert samples.labels.bincount()[[0, 4, 7]].tolist() == [20, 20, 20]
    assert float((expert.predicted_ids(samples.images) == samples.labels).float().mean()) > 0.9


def test_chains_leave_images_without_any_feature():
    """Where no unit is active, logits are 0, and so is the norm that they are divided by."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.constant_(net[1].bias, -0.3)
    nn.init.zeros_(net[3].bias)
    expert = Expert(net, (0, 1), (1, 12, 12))
    random = EvolvedDrawings(steps=0)(expert, 200, 0).images
    samples = EvolvedDrawings(steps=40, snapshots=1, copies=1, pool=200)(expert, 40, 0)
    silent = [float((net[:3](images).amax(1) == 0).float().mean()) for images in (random, samples.images)]
    assert silent[0] > 0.2
    assert silent[1] < silent[0] / 2
    assert float((expert.predicted_ids(samples.images) == samples.labels).float().mean()) > 0.9
