"""Sweeps of tiny runs, here and in processes of their own."""

from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
MODULE = f"""
import os
import sys
import time

sys.path.insert(0, {str(ROOT)!r})

import attrs

import exml
from exml.generators import GaussianNoise
from exml.scenarios import registry
from tests import tiny

registry._FACTORIES.update(tiny.FACTORIES)


@exml.component(kind="moody")
@attrs.frozen
class Moody:
    mood: str
    cure: str
    uses_priors = False
    uses_real_data = False

    def __call__(self, expert, count, seed, context, /):
        print("in the mood to", self.mood)
        while not os.path.exists(self.cure):
            if self.mood == "exit":
                os._exit(3)
            if self.mood == "raise":
                raise RuntimeError("over two\\nlines")
            time.sleep(0.05)
        return GaussianNoise()(expert, count, seed, context)
"""


@pytest.fixture(autouse=True)
def _scenarios(monkeypatch):
    tiny.register(monkeypatch)


@pytest.fixture
def folder(tmp_path):
    """With what a sweep file names: strategies, and a module that makes the tiny scenarios known in any process."""
    tiny.strategy().save(tmp_path / "noise.yaml")
    tiny.inversion().save(tmp_path / "inversion.yaml")
    (tmp_path / "tiny_module.py").write_text(MODULE)
    return tmp_path
