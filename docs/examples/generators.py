"""
Generators side by side
=======================

A generator makes the images on which the student learns from an expert (Sec. 4). These are ten images of each
generator for one expert of handwritten digits.
"""

import exml
from exml import generators, priors
from exml.generators import InMemory, PhotoPatches
from exml.protocols import GenerationContext
from exml.runs import images_figure

# %%
# The first expert is the teacher. The second, trained from other initial weights, judges the images.

scenario = exml.scenarios.load("digits-joint:epochs=8")
(expert,) = scenario.train_experts(seed=0, folder="experts/joint-0")
(judge,) = scenario.train_experts(seed=1, folder="experts/joint-1")
train = scenario.experiences[0].train

# %%
# Every generator has the same call: an expert, a number of images, and a seed.

strokes = generators.ProceduralImages(("strokes",))
each = {
    "GaussianNoise": generators.GaussianNoise(),
    "AuxiliaryData (patches of photographs)": generators.AuxiliaryData(PhotoPatches((1, 8, 8), count=1_000)),
    "ProceduralImages (strokes)": strokes,
    "ModelInversion": generators.ModelInversion(iterations=120, learning_rate=0.05),
    "ModelInversion of strokes, 15 steps": generators.ModelInversion(iterations=15, learning_rate=0.1, start=strokes),
    "DataImpression": generators.DataImpression(beta=1.0, iterations=120, learning_rate=0.05),
    "EvolvedDrawings": generators.EvolvedDrawings(steps=100, snapshots=1, copies=1, pool=1_000),
    "Replay (real digits: breaks the rules)": generators.Replay(InMemory(train.images, train.labels)),
}
context = GenerationContext(prior=priors.BatchNormStatistics(1.0))  # read by generators that optimize pixels
rows = {}
for name, generator in each.items():
    samples = generator(expert, 100, 0, context)
    agreed = (judge.predicted_ids(samples.images) == samples.labels).float().mean()
    largest = samples.labels.bincount().max() / len(samples)
    rows[f"{name}: {agreed:.0%}, {largest:.0%}"] = samples.images

# %%
# The first percentage is the share of 100 images that the judge gives the same label, the second that of the most
# frequent label. Both experts may agree about photographs because they give most of them one label, which teaches a
# student little. Inversion and data impression need the gradients of the expert; drawings that evolve need only its
# logits and the weights of one layer. ``uses_real_data`` of a generator tells whether it breaks the constraints of the
# ex-model scenario, as Replay does.

images_figure(rows, "Ten images of each generator")
