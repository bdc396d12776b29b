"""What comes in: experts and streams of them."""

from exml.experts.expert import Expert
from exml.experts.stream import ExpertStream

__all__ = ["Expert", "ExpertStream"]
