"""Experts and streams of them: cards, loading, profiles and training of experts.

May import models, protocols and core.
"""

from exml.core.expert import Expert
from exml.experts.adapting import adapted
from exml.experts.card import ExpertCard
from exml.experts.entries import Entry, entries
from exml.experts.exporting import export
from exml.experts.labels import LabelPlan, plan_labels
from exml.experts.loading import examine, load, load_expert, read_card, read_cards, read_expert
from exml.experts.pretrained import save_pretrained
from exml.experts.profile import ExpertProfile, ExpertTraits
from exml.experts.screening import Screening
from exml.experts.stream import ExpertStream, OpenStream
from exml.experts.training import ExpertTraining, train_expert, untrained_expert
from exml.experts.weights import ExpertFiles, save_expert

__all__ = [
    "Entry",
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
    "entries",
    "examine",
    "export",
    "load",
    "load_expert",
    "plan_labels",
    "read_card",
    "read_cards",
    "read_expert",
    "save_expert",
    "save_pretrained",
    "train_expert",
    "untrained_expert",
]
