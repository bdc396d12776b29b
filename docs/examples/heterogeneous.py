"""
Experts that have nothing in common
===================================

Three people trained three classifiers: a small convolutional network with batch norm, a perceptron for larger images,
and a model of scikit-learn. Labels, architectures, image sizes and formats differ. One call learns a student of all.
"""

import rich
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import interpolate

import exml
from exml.experts import ExpertTraining, adapted, train_expert
from exml.models import ConvNet
from exml.runs import assessment_table, confusion_figure

# %%
# The three strangers train in private. Only the classifiers leave this cell.

names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
(experience,) = exml.scenarios.load("digits-joint").experiences


def resized(samples, size):
    return exml.Samples.of(interpolate(samples.images, (size, size), mode="bilinear"), samples.labels)


def private(low, high, size=8):
    labels = experience.train.labels
    return resized(experience.train[(labels >= low) & (labels <= high)], size)


torch.manual_seed(0)
training = ExpertTraining(epochs=8, learning_rate=0.02)
network = ConvNet(channels=1, classes=4, image_size=8)
network = train_expert(network, private(0, 3), training=training).module
perceptron = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 5))
perceptron = train_expert(perceptron, private(3, 7, size=16), training=training).module
samples = private(6, 9)
regression = LogisticRegression(max_iter=200).fit(samples.images.flatten(1).numpy(), samples.labels.numpy())

# %%
# What exml needs to know: labels and the shape of the images. The model of scikit-learn is a function without
# gradients.

experts = [
    exml.Expert(network, range(4), (1, 8, 8), labels=names[:4], name="network"),
    exml.Expert(perceptron, range(3, 8), (1, 16, 16), labels=names[3:8], name="perceptron"),
    exml.Expert.query(
        lambda images: regression.predict_proba(images.reshape(len(images), -1)),
        classes=range(6, 10),
        labels=names[6:],
        image_shape=(1, 8, 8),
        output="probabilities",
        name="regression",
    ),
]

# %%
# The default strategy is chosen from what these experts are like, here with 3 % of its budget; ``exml.learn(experts)``
# takes minutes. Labels that two experts share, such as *three*, are learned from both. The student sees the larger of
# the two image sizes; :func:`~exml.experts.adapted` makes experts for it.

experts = [adapted(expert, (1, 16, 16)) for expert in experts]
profile = exml.ExpertProfile.from_experts(experts)
strategy = exml.recipes.at_budget(exml.recipes.default(profile).build(), 0.03)
student = exml.learn(experts, student="conv-net", strategy=strategy)
print(student.labels)

# %%
# With labeled test images, the student is compared with each expert and with their ensembles.

found = student.evaluate(resized(experience.test, 16), experts)
rich.print(assessment_table(found))

# %%
confusion_figure(found)
