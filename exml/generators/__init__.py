"""A^gen (Sec. 4): where the images come from."""

from exml.generators.auxiliary_data import AuxiliaryData
from exml.generators.buffered_images import BufferedImages
from exml.generators.data_impression import DataImpression
from exml.generators.dataset_images import DatasetImages
from exml.generators.gaussian_noise import GaussianNoise
from exml.generators.image_file import ImageFile
from exml.generators.in_memory import InMemory
from exml.generators.mixture import Mixture
from exml.generators.model_inversion import ModelInversion
from exml.generators.photo_patches import PhotoPatches
from exml.generators.procedural_images import ProceduralImages
from exml.generators.replay import Replay

__all__ = [
    "AuxiliaryData",
    "BufferedImages",
    "DataImpression",
    "DatasetImages",
    "GaussianNoise",
    "ImageFile",
    "InMemory",
    "Mixture",
    "ModelInversion",
    "PhotoPatches",
    "ProceduralImages",
    "Replay",
]
