"""
A head that grows
=================

Nobody knows all labels of a stream in advance. When an expert brings new ones, the head of the student grows: it gets
new outputs, and the old ones stay as they are.
"""

import matplotlib.pyplot as plt
import torch

import exml
from exml.experts import ExpertTraining, train_expert
from exml.models import ConvNet
from exml.runs.evaluation import student_predictor

# %%
# Four experts, each of which knows the next digits.

(experience,) = exml.scenarios.load("digits-joint").experiences
train, test = experience.train, experience.test
experts = []
for digits in ((0, 1), (2, 3, 4), (5, 6), (7, 8, 9)):
    torch.manual_seed(0)
    own = train[torch.isin(train.labels, torch.tensor(digits))]
    training = ExpertTraining(epochs=8, learning_rate=0.02)
    experts.append(train_expert(ConvNet(1, len(digits), 8), own, training=training, name=f"digits {digits}"))

# %%
# The student starts with two outputs. Before each further expert, ``Learner.grow`` adds the outputs that are
# missing. ``exml learn --follow`` does this for every expert that arrives.

strategy = exml.recipes.model_inversion(exml.ExpertProfile.from_experts(experts)).build()
learner = exml.Learner(exml.recipes.at_budget(strategy, 0.07), ConvNet(1, 2, 8), seed=0)
rows, changes = [], []
for expert in experts:
    before = student_predictor(learner.student)(test.images, None)
    learner.grow(max(expert.classes) + 1, expert.image_shape)
    after = student_predictor(learner.student)(test.images, None)
    changes.append(float((after[:, : before.shape[1]] - before).abs().max()))
    learner.learn(expert)
    predicted = student_predictor(learner.student)(test.images, None).argmax(1)
    rows.append([float((predicted[test.labels == digit] == digit).float().mean()) for digit in range(10)])
print(changes)  # of the old logits, when the head grows

# %%
# The accuracy on each digit, after each expert. Digits to the right of the steps have no output yet.

figure, axis = plt.subplots(figsize=(5, 2.8), layout="constrained")
axis.imshow(rows, cmap="cividis", vmin=0, vmax=1, aspect="auto")
for row, (values, expert) in enumerate(zip(rows, experts, strict=True)):
    for digit in range(max(expert.classes) + 1):
        color = "black" if values[digit] > 0.5 else "white"
        axis.text(digit, row, f"{100 * values[digit]:.0f}", ha="center", va="center", color=color)
outputs = [f"expert {row + 1}: {max(expert.classes) + 1} outputs" for row, expert in enumerate(experts)]
axis.set(xticks=range(10), yticks=range(4), yticklabels=outputs, xlabel="digit")
figure.suptitle("Accuracy on each digit after each expert, %")
plt.show()
