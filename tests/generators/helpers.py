"""Tiny experts, journals that kill, and what an expert looks like before and after."""

import torch
from torch import nn

from exml.experts import Expert

SHAPE = (1, 6, 6)


def network(outputs=4, channels=1, side=6, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * (side - 2) ** 2, outputs)
    )


def expert(classes=(2, 5, 7), outputs=None, shape=SHAPE, **card):
    """In training mode, since no code may rely on the mode of an expert."""
    outputs = classes if outputs is None else outputs
    module = network(len(outputs), shape[0], shape[1]).train()
    return Expert(module, classes, shape, outputs=outputs, **{"mean": (0.3,), "std": (0.5,), "task": 4, **card})


def snapshot_of(module):
    """All that a careless generator could change, to compare with ==."""
    return (
        [part.training for part in module.modules()],
        [(weight.requires_grad, weight.grad is None) for weight in module.parameters()],
        [(name, tensor.tolist()) for name, tensor in module.state_dict().items()],
    )


def hooks_of(module):
    return sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in module.modules())


class KilledError(Exception):
    """What a kill looks like from inside."""


class Ends:
    """Keeps what was reported."""

    def __init__(self):
        self.records = []

    def restore(self):
        return None

    def record(self, done, total, state, /):
        self.records.append((done, total))


class KillingJournal:
    """Takes the state at the ``at``-th record and kills the run there."""

    def __init__(self, at, kill=True):
        self.at, self.kill = at, kill
        self.seen, self.state = 0, None

    def restore(self):
        return None

    def record(self, done, total, state, /):
        self.seen += 1
        if self.seen == self.at:
            self.state = state()
            if self.kill:
                raise KilledError

    def resumed(self):
        assert self.state is not None
        return ResumingJournal(self.state)


class ResumingJournal(Ends):
    """Hands a state back."""

    def __init__(self, state):
        super().__init__()
        self.state = state

    def restore(self):
        return self.state
