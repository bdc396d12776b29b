"""What comes in: experts and streams of them."""

from exml.experts.card import ExpertCard, load_expert, read_card, save_expert
from exml.experts.expert import Expert
from exml.experts.stream import ExpertStream
from exml.experts.training import ExpertTraining, train_expert

__all__ = [
    "Expert",
    "ExpertCard",
    "ExpertStream",
    "ExpertTraining",
    "load_expert",
    "read_card",
    "save_expert",
    "train_expert",
]
