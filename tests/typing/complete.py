"""A type checker accepts all of this."""

from typing import assert_type

import attrs
import torch

import exml
from exml.augmentation import Augmentation
from exml.combiners import ByClass
from exml.core.shapes import ClassMask, Images, Logits, Scalar
from exml.generators import ModelInversion, ProceduralImages
from exml.learning.builder import Given, StrategyBuilder
from exml.losses import Distillation
from exml.priors import GaussianBlur, L2Norm


@exml.component
@attrs.frozen
class Halve:
    """A normalizer from outside the package."""

    def __call__(self, logits: Logits, known: ClassMask, /) -> Logits:
        return logits / 2


@exml.component
@attrs.frozen
class Dark:
    """A prior from outside the package."""

    weight: float

    @property
    def reads_activations(self) -> bool:
        return False

    def __call__(self, images: Images, activations: object, /) -> Scalar:
        return self.weight * images.square().mean()


base = (
    exml.StrategyBuilder()
    .generator(ModelInversion())
    .priors(L2Norm(1e-4), GaussianBlur(0.01), Dark(1.0))
    .augmentation(Augmentation.cifar10())
    .normalizer(Halve())
    .combiner(ByClass())
    .buffer(exml.buffers.Cumulative(size=5_000))
    .loss(Distillation(cross_entropy=1.0))
    .training(exml.Training(iterations=50_000, batch_size=32, learning_rate=0.1))
)
assert_type(base, StrategyBuilder[Given, Given, Given, Given, Given])
assert_type(base.build(), exml.Strategy)
assert_type(base.priors().generator(ProceduralImages()).student("reset").build(), exml.Strategy)

learner = exml.Learner(base.build(), torch.nn.Linear(1, 1), seed=0, folder="checkpoints")
assert_type(learner.student, torch.nn.Module)
