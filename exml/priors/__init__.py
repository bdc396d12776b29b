"""Natural image priors (Sec. 4.1): penalties on images that look like nothing in nature, and augmentation."""

from exml.priors.activation import Activation, record_activations

__all__ = ["Activation", "record_activations"]
