"""
Baselines
=========

Before a student learns, look at what its experts reach without learning (Sec. 5). All baselines but the average of the
parameters keep every expert, which the ex-model scenario forbids; the oracle even knows which expert to use.
"""

import matplotlib.pyplot as plt
import torch

import exml
from exml.baselines import EnsembleAverage, MinEntropy, Oracle, ParameterAverage

scenario = exml.scenarios.load("digits-nc:epochs=8")
experts = scenario.train_experts(seed=0, folder="experts/nc")
tests = [experience.test for experience in scenario.experiences]

# %%
# A baseline takes the experts and the number of classes, and returns a function from images to scores. Its second
# argument is the position of the responsible expert, which only the oracle reads.

baselines = {
    "Oracle": Oracle(),
    "Ensemble, probabilities": EnsembleAverage("probabilities"),
    "Ensemble, logits": EnsembleAverage("logits"),
    "Minimum entropy": MinEntropy(),
    "Parameter average": ParameterAverage(),
}
accuracy = {}
for name, baseline in baselines.items():
    predict = baseline(experts, 10)
    scores = [predict(test.images, torch.full_like(test.labels, place)) for place, test in enumerate(tests)]
    accuracy[name] = [float((s.argmax(1) == test.labels).float().mean()) for s, test in zip(scores, tests, strict=True)]

# %%
# Dots are the five experiences, bars their mean, which is the stream accuracy of Eq. 2, because all test sets have 100
# images. An expert alone is nearly perfect on its digits. The errors arise between experts, each of which is certain of
# its own classes whatever it sees.

figure, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
for place, (name, values) in enumerate(accuracy.items()):
    mean = 100 * sum(values) / len(values)
    axis.barh(place, mean, color="#56B4E9" if baselines[name].ex_model else "#DDDDDD")
    axis.plot([100 * value for value in values], [place] * len(values), "o", color="black", markersize=4)
    axis.text(2, place, f"{mean:.1f}", va="center")
axis.set(yticks=range(len(accuracy)), yticklabels=accuracy, xlim=(0, 102), title="Accuracy on the test images, %")
axis.invert_yaxis()
plt.show()
