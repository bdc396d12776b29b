"""
The buffer along a stream
=========================

A buffer policy decides how many images the generator makes for expert i, and which of the older ones stay
(Algorithm 1, lines 3 to 5). This page follows the content of the buffer along a stream of five experts.
"""

import matplotlib.pyplot as plt
import torch

import exml
from exml import buffers
from exml.runs import images_figure

scenario = exml.scenarios.load("digits-nc:epochs=8")
experts = scenario.train_experts(seed=0, folder="experts/nc")

# %%
# A policy has two parts: ``share(i)``, the number of new images, and a call that makes the buffer M_i of M_{i-1} and
# the new images D_i. This is what a learner does with them in each experience, without the learning:


def along(policy, generator):
    memory = None
    for number, expert in enumerate(experts, 1):
        new = generator(expert, policy.share(number), number).of_experience(number)
        memory = policy(memory, new, torch.Generator().manual_seed(number))
        yield memory


policies = [
    buffers.Cumulative(600),
    buffers.ClassBalanced(600),
    buffers.EqualParts(600),
    buffers.Reservoir(600, per_experience=300),
    buffers.Latest(600),
    buffers.Unbounded(200),
]

# %%
# ``Cumulative`` is that of the paper: N/i new images, and a random subsample of the others.

strokes = exml.generators.ProceduralImages(("strokes",))
figure, axes = plt.subplots(3, 2, figsize=(5, 6.5), sharex=True, sharey=True, layout="constrained")
colors = plt.colormaps["cividis"](torch.linspace(0, 1, len(experts)).numpy())
for policy, axis in zip(policies, axes.flat, strict=True):
    bottom = torch.zeros(len(experts))
    counts = torch.stack([memory.experiences.bincount(minlength=len(experts) + 1) for memory in along(policy, strokes)])
    for number in range(1, len(experts) + 1):
        axis.bar(range(1, 6), counts[:, number], bottom=bottom, color=colors[number - 1], label=f"expert {number}")
        bottom += counts[:, number]
    axis.set_title(type(policy).__name__, fontsize=10)
for axis in axes[-1]:
    axis.set(xlabel="after experience", xticks=range(1, 6))
figure.suptitle("Images in the buffer, by expert")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %%
# The images themselves, with a generator that optimizes drawings for a few steps: every tenth image of a cumulative
# buffer of 100, from the oldest to the newest.

inversion = exml.generators.ModelInversion(iterations=15, learning_rate=0.1, start=strokes)
rows = {}
for number, memory in enumerate(along(buffers.Cumulative(100), inversion), 1):
    counts = memory.experiences.bincount()[1:].tolist()
    rows[f"after experience {number}: {' + '.join(map(str, counts))}"] = memory.images[::10]
images_figure(rows, "The buffer along the stream")
