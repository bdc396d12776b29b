"""
Priors along the iterations
===========================

What do blur, total variation and batch-norm statistics do while images are optimized? A prior is any object with one
call, so a prior that wraps another one can record it.
"""

import attrs
import matplotlib.pyplot as plt
import torch

import exml
from exml import priors
from exml.generators import ModelInversion
from exml.priors import record_activations
from exml.protocols import GenerationContext

scenario = exml.scenarios.load("digits-joint:epochs=8")
(expert,) = scenario.train_experts(seed=0, folder="experts/joint-0")

# %%
# This prior returns what the wrapped one returns, times a weight, and notes the value itself in every step. With weight
# 0 it only watches.


@attrs.frozen
class Recorded:
    prior: exml.protocols.Prior
    weight: float
    values: list[float] = attrs.field(factory=list)

    @property
    def reads_activations(self):
        return self.prior.reads_activations

    def __call__(self, images, activations, /):
        penalty = self.prior(images, activations)
        self.values.append(penalty.item())
        return self.weight * penalty


# %%
# Two inversions of 100 images, from the same noise. The first has no prior and is only watched. The second minimizes
# all three. For comparison, the same terms of 100 real digits, which no generator sees.

terms = {
    "GaussianBlur(0.05)": priors.GaussianBlur(0.05),
    "TotalVariation(0.01)": priors.TotalVariation(0.01),
    "BatchNormStatistics(1.0)": priors.BatchNormStatistics(1.0),
}
invert = ModelInversion(iterations=120, learning_rate=0.05)
watched, minimized = ({name: Recorded(prior, weight) for name, prior in terms.items()} for weight in (0.0, 1.0))
for recorded in (watched, minimized):
    invert(expert, 100, 0, GenerationContext(prior=priors.Sum(recorded.values())))

digits = expert.normalize(scenario.experiences[0].test.images[:100])
with record_activations(expert.module) as activations, torch.no_grad():
    expert.module(digits)
    real = {name: float(prior(digits, activations)) for name, prior in terms.items()}

# %%
# Without a prior, the images become rougher than the noise that they started from. The priors make them smoother than
# real digits, which have sharp edges: a sign that their weights are high enough. The batch-norm statistics come closer
# to those of the training set, but a hundred real digits match them much better.

figure, axes = plt.subplots(3, 1, figsize=(5, 7), sharex=True, layout="constrained")
for axis, name in zip(axes, terms, strict=True):
    axis.plot(watched[name].values, color="#D55E00", label="not minimized")
    axis.plot(minimized[name].values, color="#0072B2", label="minimized")
    axis.axhline(real[name], color="black", linestyle=":", label="real digits")
    axis.set(title=name, ylabel="penalty", ylim=0)
axes[0].legend()
axes[-1].set_xlabel("iteration")
plt.show()
