"""
A stream of strangers' models
=============================

Five classifiers of the same ten digits arrive in a folder, in three formats. One of them is poisoned: its labels are
permuted. Nobody says which.
"""

import tempfile
from pathlib import Path

import attrs
import matplotlib.pyplot as plt
import torch

import exml
from exml.experts import ExpertStream, save_expert, save_pretrained
from exml.learning.events import ExpertRefused, ExpertScreened
from exml.runs.evaluation import student_predictor

# %%
# The strangers: experts that never saw each other's data. The fourth gets a wrong order of its outputs.

scenario = exml.scenarios.load("digits-ni:epochs=8")
experts = scenario.train_experts(seed=0, folder="experts/ni")
senders = [attrs.evolve(expert, name=f"stranger-{number}") for number, expert in enumerate(experts, 1)]
senders[3] = attrs.evolve(senders[3], outputs=senders[3].outputs[3:] + senders[3].outputs[:3])

folder = Path(tempfile.mkdtemp())
for number in (0, 3):
    save_expert(senders[number], folder, f"{number + 1}-safetensors")
for number in (1, 4):
    save_pretrained(senders[number], folder / f"{number + 1}-hugging-face")
torch.save(senders[2].module.state_dict(), folder / "3-state-dict.pth")
mean, std = (list(numbers) for numbers in (senders[2].mean, senders[2].std))
settings = "architecture: {name: conv-net, settings: {channels: 1, classes: 10, image_size: 8}}"
card = f"classes: {list(range(10))}\nimage_shape: [1, 8, 8]\nmean: {mean}\nstd: {std}\n{settings}\n"
(folder / "3-state-dict.yaml").write_text(card)
print(*sorted(path.name for path in folder.iterdir()))

# %%
# The stream reads one expert at a time. Before the student learns, the first experts are compared on drawings that all
# of them share; no data is needed. Suspect ones are refused. An observer sees every event.

strategy = exml.recipes.at_budget(exml.recipes.default(scenario.profile()).on_suspect("refuse").build(), 0.05)
screened, refused = {}, {}


def observe(event, /):
    match event:
        case ExpertScreened(screening=found):
            screened[found.expert] = found
        case ExpertRefused(file=name, reason=reason):
            refused[name] = reason


learner = exml.Learner(strategy, scenario.make_student(seed=0), seed=0, observers=[observe])
learner.learn_stream(ExpertStream.from_folder(folder))
print(*refused.values())

# %%
# The agreement of an expert with the others is the correlation of their logits: 1 if they are equal, 0 by chance.

figure, axis = plt.subplots(figsize=(5, 2.8), layout="constrained")
names = [name for name, found in screened.items() if found.agreement is not None]
colors = ["#D55E00" if screened[name].reasons else "#0072B2" for name in names]
axis.barh(names, [screened[name].agreement for name in names], color=colors)
axis.axvline(0, color="black", linewidth=0.8)
axis.set(xlabel="agreement with the others")
figure.suptitle("Screening of five strangers; orange is refused")
axis.invert_yaxis()
plt.show()

# %%
# The student has learned from the other four:

test = scenario.experiences[0].test
predicted = student_predictor(learner.student)(test.images, None).argmax(1)
print(f"{learner.experience} experts, accuracy {(predicted == test.labels).float().mean():.1%}")
