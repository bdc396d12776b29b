"""Model Inversion ED as one would write it from the paper in an afternoon: plain loops, nothing of exml's.

Our default is compared with it in ``benchmarks/time_to_accuracy.py``, so it is neither slow on purpose nor tuned:
Algorithm 1 with the settings of appendix B.1 for gray images and B.2 for color, experts frozen and in evaluation mode
(only the necessary gradients are computed), pixels in large mini-batches (Sec. 4), the distillation's mini-batch alone
gathered from the buffer, and everything on one device. All images are in the normalized units of the experts.

``budget`` b scales the iterations of the inversion, those of the distillation and the buffer; 1 is the paper. The time
decreases by b² in the inversion and by b in the distillation.
"""

import copy
from collections.abc import Callable, Sequence

import kornia
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

BUFFER = 5_000  # appendix B
INVERSION = {
    1: {"lr": 0.01, "iterations": 3_000, "blur": 0.001, "bns": 1.0, "weight_decay": 0.001, "temperature": 2.0},
    3: {"lr": 0.1, "iterations": 500, "blur": 0.01, "bns": 0.0, "weight_decay": 0.0001, "temperature": 2.0},
}  # by channels
DISTILLATION = {
    1: {"lr": 0.01, "iterations": 30_000, "batch_size": 32, "cross_entropy": 1.0},
    3: {"lr": 0.1, "iterations": 50_000, "batch_size": 32, "cross_entropy": 1.0},
}
INVERSION_BATCH = {1: 512, 3: 1_024}  # for gray images the paper says only "large mini-batches"


def settings(budget: float, channels: int = 1) -> dict[str, dict[str, float] | int]:
    """The settings of a run with this budget."""
    inversion, distillation = (
        {**part[channels], "iterations": max(1, round(part[channels]["iterations"] * budget))}
        for part in (INVERSION, DISTILLATION)
    )
    return {"buffer": max(1, round(BUFFER * budget)), "inversion": inversion, "distillation": distillation}


def invert(expert: nn.Module, classes: Sequence[int], size: int, shape: Sequence[int], shift: int, config: dict):
    """D_i: images that the expert assigns to its classes, in equal parts, and these classes (Sec. 4)."""
    device = next(expert.parameters()).device
    labels = torch.tensor(classes, device=device)[torch.arange(size, device=device) % len(classes)]
    crop = v2.RandomCrop(shape[1:], padding=shift, padding_mode="edge")
    batch_norms = [layer for layer in expert.modules() if isinstance(layer, nn.BatchNorm2d) and config["bns"]]
    penalties = []

    def match_statistics(layer: nn.BatchNorm2d, inputs: tuple[Tensor], _: Tensor) -> None:
        mean, std = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), unbiased=False).add(1e-8).sqrt()
        penalties.append((mean - layer.running_mean).square().sum())
        penalties.append((std - layer.running_var.sqrt()).square().sum())

    hooks = [layer.register_forward_hook(match_statistics) for layer in batch_norms]
    finished = []
    for targets in labels.split(INVERSION_BATCH[shape[0]]):
        images = torch.randn(len(targets), *shape, device=device, requires_grad=True)
        optimizer = torch.optim.Adam([images], lr=config["lr"])
        for _ in range(config["iterations"]):
            penalties.clear()
            logits = expert(crop(images))
            loss = F.cross_entropy(logits / config["temperature"], targets)
            loss = loss + config["weight_decay"] * images.square().sum((1, 2, 3)).mean()
            blurred = kornia.filters.gaussian_blur2d(images, (3, 3), (1.0, 1.0))
            loss = loss + config["blur"] * (images - blurred).square().sum((1, 2, 3)).mean()
            if penalties:
                loss = loss + config["bns"] * torch.stack(penalties).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        finished.append(images.detach())
    for hook in hooks:
        hook.remove()
    return torch.cat(finished), labels


def centered(logits: Tensor, known: Tensor) -> Tensor:
    """*normalize* of Eqs. 6 and 7: subtract the mean over the classes that the teacher knows."""
    return logits - logits[:, known].mean(1, keepdim=True)


def combined(images: Tensor, labels: Tensor, previous: nn.Module | None, seen: Tensor, expert: nn.Module, own: Tensor):
    """ỹ of Eq. 8, and which of its entries a teacher gave; ``seen`` and ``own`` are masks over the classes.

    "The units of each model are treated separately" (Sec. 3): a teacher gives values for the classes it knows.
    """
    total = torch.where(own, centered(expert(images), own), 0) * own[labels, None]
    given = (own & own[labels, None]).float()
    if previous is not None:
        total = total + torch.where(seen, centered(previous(images), seen), 0) * seen[labels, None]
        given = given + (seen & seen[labels, None])
    return total / given.clamp(min=1), given > 0


def learn(
    student: nn.Module,
    experts: Sequence[tuple[nn.Module, Sequence[int]]],
    shape: Sequence[int],
    *,
    shift: int,
    budget: float,
    seed: int,
    after_experience: Callable[[int], None],
) -> None:
    """Algorithm 1.

    Args:
        student: trained in place; as the experts, it takes normalised images and has an output for every class.
        experts: modules and the ids of their classes, on the student's device.
        shape: of an image.
        shift: the maximum displacement of the augmentation, in pixels.
        budget: the share of the paper's iterations and buffer.
        seed: of everything random.
        after_experience: called with the number of completed experiences.
    """
    config = settings(budget, shape[0])
    size, distillation = config["buffer"], config["distillation"]
    device = next(student.parameters()).device
    crop = v2.RandomCrop(shape[1:], padding=shift, padding_mode="edge")
    torch.manual_seed(seed)
    for expert, _ in experts:
        expert.eval().requires_grad_(False)
    outputs = student.eval()(torch.zeros(1, *shape, device=device)).shape[1]
    buffer = torch.empty(0, *shape, device=device)
    labels = torch.empty(0, dtype=torch.long, device=device)
    seen = torch.zeros(outputs, dtype=torch.bool, device=device)
    previous = None
    for number, (expert, classes) in enumerate(experts, 1):
        own = torch.zeros_like(seen)
        own[list(classes)] = True
        new_images, new_labels = invert(expert, classes, size // number, shape, shift, config["inversion"])
        kept = torch.randperm(len(buffer), device=device)[: size - size // number]
        buffer, labels = torch.cat([buffer[kept], new_images]), torch.cat([labels[kept], new_labels])
        optimizer = torch.optim.SGD(student.parameters(), lr=distillation["lr"])
        student.train()
        for _ in range(distillation["iterations"]):
            chosen = torch.randint(len(buffer), (distillation["batch_size"],), device=device)
            images, classes_of = crop(buffer[chosen]), labels[chosen]
            with torch.no_grad():
                target, given = combined(images, classes_of, previous, seen, expert, own)
            answer = student(images)
            errors = ((answer - target) * given).square()  # Eq. 9, for color the mean: with the sum a ResNet diverges
            loss = errors.sum(1).mean() if shape[0] == 1 else errors.mean()
            loss = loss + distillation["cross_entropy"] * F.cross_entropy(answer, classes_of)  # Eq. 10
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        previous = copy.deepcopy(student).eval().requires_grad_(False)
        seen = seen | own
        after_experience(number)
