"""
Typicality: the span of a layer
===============================

A classifier of twos and threes has an opinion about every image, also about a seven. Its weights tell that it never
saw one: SGD moves the rows of a linear layer only within the span of its training inputs. The page *Typicality* derives
this; here are the pictures.
"""

import attrs
import matplotlib.pyplot as plt
import torch

import exml
from exml.calibrations import Center, CommonScale, Typicality
from exml.engine import reader_of
from exml.generators import EvolvedDrawings
from exml.protocols import GenerationContext
from exml.runs import images_figure

# %%
# Five experts for two digits each. Their first layer maps 64 pixels to 32 units, so it has a span that is not the whole
# space. All five start from the same weights, which are known here.

scenario = exml.scenarios.load("digits-nc")
layers = ["flatten", {"linear": [64, 32]}, "relu", {"linear": [32, 10]}]
scenario = attrs.evolve(scenario, architecture={"name": "sequential", "settings": {"layers": layers}})
experts = list(scenario.train_experts(seed=0, folder="experts/linear"))
start = scenario.make_module(0, "experts").state_dict()

# %%
# A ``Reader`` finds the layer, and reads the typicality of images from one forward pass. Random
# drawings give it a scale: 0 is the mean drawing, 1 one standard deviation above it.

drawings = EvolvedDrawings(steps=0)
tests = [experience.test.images for experience in scenario.experiences]
scores = torch.zeros(5, 5)
for row, expert in enumerate(experts):
    reader = reader_of(expert, start)

    def typicality(images, expert=expert, reader=reader):
        with torch.no_grad():
            return reader(expert.module, expert.normalize(images)).typicality

    pool = typicality(drawings(expert, 2_000, 0).images)
    scores[row] = torch.tensor([float((typicality(images).mean() - pool.mean()) / pool.std()) for images in tests])
print(reader.narrowing, reader.basis.shape, round(reader.decay, 3))

# %%
# Each row is an expert, each column the real test digits of one experience. In every row, the largest number is that of
# the expert's own digits. No label and no training image was used.

names = [" and ".join(map(str, expert.classes)) for expert in experts]
figure, axis = plt.subplots(figsize=(5, 4.2), layout="constrained")
axis.imshow(scores, cmap="cividis")
for row, column in torch.cartesian_prod(torch.arange(5), torch.arange(5)).tolist():
    color = "black" if scores[row, column] > scores.mean() else "white"
    axis.text(column, row, f"{scores[row, column]:.1f}", ha="center", va="center", color=color)
axis.set(xticks=range(5), yticks=range(5), xticklabels=names, yticklabels=names)
axis.set(xlabel="test images of", ylabel="expert of", title="Mean typicality, in standard deviations")
plt.show()

# %%
# ``EvolvedDrawings`` climbs this number and the logits at once, without a gradient.

rows = {"random": drawings(experts[0], 10, 1).images}
evolved = EvolvedDrawings(steps=150, snapshots=1, copies=1)
for expert in experts[:3]:
    samples = evolved(expert, 20, 0, GenerationContext(start=start))
    for label in expert.classes:
        rows[f"evolved towards {label}"] = samples.images[samples.labels == label]
images_figure(rows, "Random drawings, and drawings that evolved")

# %%
# As a gate between experts: ``Typicality`` adds the number to the logits. Accuracy of the
# largest calibrated logit of all five experts, on all test images:

labels = torch.cat([experience.test.labels for experience in scenario.experiences])
images = torch.cat(tests)
for steps in ((Center(),), (Center(), Typicality(6.4))):
    scale = CommonScale(related=steps)
    with torch.no_grad():
        logits = sum(
            torch.zeros(len(images), 10).index_copy_(1, expert.class_ids, scaled.own_logits(scaled.logits(images)))
            for expert in experts
            for scaled in [scale(expert, 0, start)]
        )
    print(*steps, f"{(logits.argmax(1) == labels).float().mean():.1%}")
