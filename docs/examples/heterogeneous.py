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


def private(low, high, size=8):
    own = experience.train[(experience.train.labels >= low) & (experience.train.labels <= high)]
    return exml.Samples.of(interpolate(own.images, (size, size), mode="bilinear"), own.labels)


torch.manual_seed(0)
training = ExpertTraining(epochs=15, learning_rate=0.02, schedule="cosine")
network = ConvNet(channels=1, classes=4, image_size=8)
network = train_expert(network, private(0, 3), training=training, mean=(0.3,), std=(0.38,)).module
perceptron = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 5))
perceptron = train_expert(perceptron, private(3, 7, size=16), training=training).module
samples = private(6, 9)
regression = LogisticRegression(max_iter=200).fit(samples.images.flatten(1).numpy(), samples.labels.numpy())

# %%
# What exml needs to know: labels, and the shape and normalization of the images. The model of scikit-learn is a
# function without gradients.

experts = [
    exml.Expert(network, range(4), (1, 8, 8), labels=names[:4], mean=(0.3,), std=(0.38,), name="network"),
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
# The default strategy is chosen from what these experts are like, here with 1 % of its budget; ``exml.learn(experts)``
# takes minutes. Labels that two experts share, such as *three*, are learned from both. The student sees images of 8x8
# pixels; ``adapted`` makes an expert that resizes them.

experts = [adapted(expert, (1, 8, 8)) for expert in experts]
profile = exml.ExpertProfile.from_experts(experts)
strategy = exml.recipes.at_budget(exml.recipes.default(profile).build(), 0.01)
student = exml.learn(experts, student="conv-net", strategy=strategy)
print(student.labels)

# %%
# With labeled test images, the student is compared with each expert, with their ensembles, and with its target.

found = student.evaluate(experience.test, experts)
rich.print(assessment_table(found))

# %%
confusion_figure(found)
