"""A^gen (Sec. 4): where the images come from."""

from exml.generators.context import GenerationContext, NoJournal

__all__ = ["GenerationContext", "NoJournal"]
