"""
What each prior does
====================

``ModelInversion`` optimizes pixels until an expert predicts a class. Many images do that, and
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

scenario = exml.scenarios.load("digits-joint:epochs=8")
(expert,) = scenario.train_experts(seed=0, folder="experts/joint-0")
(judge,) = scenario.train_experts(seed=1, folder="experts/joint-1")

# %%
# A generator gets its prior with the ``GenerationContext``; a
# ``StrategyBuilder`` does this for a whole strategy. Every row starts from the same noise. A sum of priors
# is a prior.

each = {
    "L2Norm": priors.L2Norm(0.01),
    "GaussianBlur": priors.GaussianBlur(0.05),
    "TotalVariation": priors.TotalVariation(0.03),
    "BatchNormStatistics": priors.BatchNormStatistics(1.0),
}
invert = ModelInversion(iterations=120, learning_rate=0.05)
made = {}
for name, prior in {"no prior": None, **each, "all four": priors.Sum(each.values())}.items():
    made[name] = invert(expert, 100, 0, GenerationContext(prior=prior))
digits = scenario.experiences[0].test
made["real digits"] = digits[digits.labels.argsort(stable=True).view(10, 50).T.flatten()]

# %%
# Each column is one class, from 0 to 9. The percentages are the shares of the images in which the expert and the judge
# recognize the class that the image was made for. The opinion of the expert itself says little about an image; that of
# the judge tells whether another network sees the same in it.

rows = {}
for name, samples in made.items():
    shares = ((one.predicted_ids(samples.images) == samples.labels).float().mean() for one in (expert, judge))
    rows["{}: expert {:.0%}, judge {:.0%}".format(name, *shares)] = samples.images
images_figure(rows, "Images of one expert under each prior")
