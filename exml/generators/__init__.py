"""A^gen (Sec. 4): generators, which make images and labels out of an expert, and the sources that some draw from.

Imports the engine and the rooms below it.
"""

from exml.generators._common import labeled
from exml.generators.drawn import AuxiliaryData, BufferedImages, GaussianNoise, Replay
from exml.generators.evolved import EvolvedDrawings
from exml.generators.mixture import Mixture
from exml.generators.optimized import DataImpression, ModelInversion
from exml.generators.procedural import ProceduralImages
from exml.generators.sources import DatasetImages, ImageFile, InMemory, PhotoPatches

__all__ = [
    "AuxiliaryData",
    "BufferedImages",
    "DataImpression",
    "DatasetImages",
    "EvolvedDrawings",
    "GaussianNoise",
    "ImageFile",
    "InMemory",
    "Mixture",
    "ModelInversion",
    "PhotoPatches",
    "ProceduralImages",
    "Replay",
    "labeled",
]
