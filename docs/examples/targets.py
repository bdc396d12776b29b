"""
Normalizers and combiners
=========================

The student learns from two teachers: its former self and the new expert. If the logits of one are ten times as large,
which of the two wins? This depends on the normalizer (Eqs. 6 and 7) and the combiner (Eq. 8).
"""

import matplotlib.pyplot as plt
import torch

import exml
from exml import combiners, normalizers
from exml.engine import PreviousStudent, Teachers

# %%
# Two experts of two digits each. The logits of the second are multiplied by ten, as if it had been trained with
# another loss. Its predictions stay the same. The first stands for the previous student.

scenario = exml.scenarios.load("digits-nc:epochs=8")
first, second, *_ = scenario.train_experts(seed=0, folder="experts/nc")
with torch.no_grad():
    for parameter in second.module.classifier.parameters():
        parameter *= 10

known = torch.zeros(10, dtype=torch.bool)
known[list(first.classes)] = True
student = exml.models.Normalized(first.module, first.mean, first.std)
previous = PreviousStudent(student, known, present=torch.ones(10, dtype=torch.bool))

# %%
# Twelve real digits of each class show the targets; a student would see synthetic ones.

tests = exml.Samples.concat([experience.test for experience in scenario.experiences[:2]])
classes = [*first.classes, *second.classes]
samples = exml.Samples.concat([tests[tests.labels == label][:12] for label in classes])

# %%
# ``Teachers`` computes the target as in training, one row per image and one column per class. ``ByClass`` reads the
# label of the image, so the scale does not matter, but its target says nothing about the other classes (white). Side by
# side, raw logits let the louder expert win every image. Of two classes, standardized logits keep only which is larger.

rows = [normalizers.RawLogits(), normalizers.CenterLogits()]
rows += [normalizers.StandardizeLogits(), normalizers.L2NormalizeLogits()]
columns = [combiners.ByClass(), combiners.SideBySide(), combiners.ProductOfExperts()]

figure, axes = plt.subplots(4, 3, figsize=(5, 7.5), sharex=True, sharey=True, layout="constrained")
figure.suptitle("Target logits, and how often the largest is right")
for axis, combiner in zip(axes[-1], columns, strict=True):
    axis.set_xlabel(type(combiner).__name__)
for normalizer, line in zip(rows, axes, strict=True):
    line[0].set_ylabel(type(normalizer).__name__)
    for combiner, axis in zip(columns, line, strict=True):
        with torch.no_grad():
            target = Teachers(previous, second, normalizer, combiner, classes=10).target(samples)
        shown = target.logits.masked_fill(~target.defined, torch.nan)[:, classes]
        right = (target.logits.masked_fill(~target.defined, -torch.inf).argmax(1) == samples.labels).float().mean()
        largest = shown.abs().nan_to_num().max().item()
        axis.imshow(shown, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
        axis.set_title(f"{right:.0%}", fontsize=9)
        axis.set(xticks=range(4), xticklabels=classes, yticks=[])
plt.show()
