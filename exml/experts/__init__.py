"""Experts and streams of them: cards, loading, profiles and training of experts.

May import models, protocols and core.
"""

from exml.core.expert import Expert
from exml.experts.adapting import adapted
from exml.experts.card import ExpertCard, ExpertFiles, load_expert, read_card, read_cards, read_expert, save_expert
from exml.experts.labels import LabelPlan, plan_labels
from exml.experts.profile import ExpertProfile, ExpertTraits
from exml.experts.screening import Screening
from exml.experts.stream import ExpertStream, OpenStream
from exml.experts.training import ExpertTraining, train_expert, untrained_expert

__all__ = [
    "Expert",
    "ExpertCard",
    "ExpertFiles",
    "ExpertProfile",
    "ExpertStream",
    "ExpertTraining",
    "ExpertTraits",
    "LabelPlan",
    "OpenStream",
    "Screening",
    "adapted",
    "load_expert",
    "plan_labels",
    "read_card",
    "read_cards",
    "read_expert",
    "save_expert",
    "train_expert",
    "untrained_expert",
]
