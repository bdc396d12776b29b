"""What holds for every generator: conformance, and faults in sizes and settings."""

import pytest
import torch

from exml.core.errors import BufferSizeError, SettingError
from exml.generators import (
    AuxiliaryData,
    BufferedImages,
    DataImpression,
    GaussianNoise,
    ImageFile,
    InMemory,
    Mixture,
    ModelInversion,
    PhotoPatches,
    ProceduralImages,
    Replay,
)
from exml.testing import check_generator
from tests.generators.helpers import expert

NOISE = ProceduralImages(("noise",))
IMAGES = InMemory(torch.rand(3, 1, 6, 6), torch.tensor([2, 5, 7]))


@pytest.mark.parametrize(
    "generator",
    [
        AuxiliaryData(PhotoPatches(count=300)),
        DataImpression(iterations=2),
        DataImpression(
            0.1, iterations=2, temperature=20.0, batch_size=3, start=ProceduralImages(), clamp=1.0, head="4"
        ),
        Mixture((GaussianNoise(), NOISE)),
        Mixture((Mixture((GaussianNoise(),)), ModelInversion(iterations=1)), weights=(2, 0.5)),
        ModelInversion(iterations=2),
        ModelInversion(iterations=3, batch_size=2, start=ProceduralImages(), stop_at=0.5, clamp=1.0, classes="known"),
        GaussianNoise(0.5),
    ],
    ids=repr,
)
def test_conforms(generator):
    check_generator(generator)


@pytest.mark.parametrize(
    "generator",
    [
        ProceduralImages(),
        ProceduralImages(("strokes", "noise"), polarity="any"),
        ProceduralImages(("strokes",), full_contrast=True),
    ],
)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7)])
def test_procedural_images_conform_in_gray_and_in_color(generator, shape):
    check_generator(generator, shape)


def test_replay_of_a_file_conforms(tmp_path):
    check_generator(Replay(ImageFile.write(tmp_path / "a.safetensors", torch.rand(30, 1, 8, 8), torch.arange(30) % 5)))


@pytest.mark.parametrize("size", [0, -3])
@pytest.mark.parametrize(
    "generator",
    [
        AuxiliaryData(IMAGES),
        BufferedImages(),
        DataImpression(),
        GaussianNoise(),
        Mixture((NOISE,)),
        ModelInversion(),
        NOISE,
        Replay(IMAGES),
    ],
    ids=lambda generator: type(generator).__name__,
)
def test_a_size_below_one_is_an_error(generator, size):
    with pytest.raises(BufferSizeError, match=f"got {size}"):
        generator(expert(), size, 0)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((cls, *bad) for cls in (DataImpression, ModelInversion) for bad in (("iterations", 0), ("learning_rate", 0))),
        *((cls, *bad) for cls in (DataImpression, ModelInversion) for bad in (("batch_size", 0), ("clamp", 0))),
        (DataImpression, "temperature", 0),
        (DataImpression, "beta", 0),
        (ModelInversion, "iterations", 1.5),
        (ModelInversion, "temperature", -1),
        (ModelInversion, "stop_at", 1.1),
        (ModelInversion, "stop_at", 0),
        (ModelInversion, "classes", "seen"),
        (ProceduralImages, "kinds", ()),
        (ProceduralImages, "kinds", ("lines",)),
        (ProceduralImages, "kinds", "noise"),
        (ProceduralImages, "polarity", "grey"),
        (GaussianNoise, "std", -1),
        (GaussianNoise, "std", float("nan")),
        (GaussianNoise, "std", "1"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(kind, name, value):
    with pytest.raises(SettingError, match=name):
        kind(**{name: value})
