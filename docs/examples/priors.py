"""
What each prior does
====================

:class:`~exml.generators.ModelInversion` optimizes pixels until an expert predicts a class. Many images do that, and
most of them are noise to the eye. *Priors* (Sec. 4.1) prefer natural images. These are the images of one expert under
each prior, one after the other.
"""

import exml
from exml import priors
from exml.generators import ModelInversion
from exml.protocols import GenerationContext
from exml.runs import images_figure

# %%
# Two experts for all ten digits are trained on the spot. The first is inverted. The second had other initial weights
# and never sees the first: it judges the images.

scenario = exml.scenarios.load("digits-joint:epochs=10")
(expert,) = scenario.train_experts(seed=0, folder="experts/joint-0")
(judge,) = scenario.train_experts(seed=1, folder="experts/joint-1")

# %%
# A generator gets its prior with the :class:`~exml.protocols.GenerationContext`; a
# :class:`~exml.StrategyBuilder` does this for a whole strategy. Every row starts from the same noise. A sum of priors
# is a prior.

each = {
    "L2Norm": priors.L2Norm(0.01),
    "GaussianBlur": priors.GaussianBlur(0.05),
    "TotalVariation": priors.TotalVariation(0.03),
    "BatchNormStatistics": priors.BatchNormStatistics(10.0),
}
invert = ModelInversion(iterations=120, learning_rate=0.05)
rows = {}
for name, prior in {"no prior": None, **each, "all four": priors.Sum(each.values())}.items():
    samples = invert(expert, 100, 0, GenerationContext(prior=prior))
    recognized = (judge.predicted_ids(samples.images) == samples.labels).float().mean()
    rows[f"{name}: {recognized:.0%} recognized"] = samples.images

digits = scenario.experiences[0].test
recognized = (judge.predicted_ids(digits.images) == digits.labels).float().mean()
rows[f"real digits, for comparison: {recognized:.0%} recognized"] = digits[
    digits.labels.argsort(stable=True)[::50]
].images

# %%
# Each column is one class, from 0 to 9. The percentage is the share of 100 images in which the judge recognizes the
# class that the image was made for. The first expert itself is certain of nearly all of them, with or without priors:
# its own opinion says little about an image.

images_figure(rows, "Images of one expert under each prior")
