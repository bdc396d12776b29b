"""Screens the experts of a stream: shows all of them the same images, and keeps the logits of the latest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import attrs
import torch
from torch import Tensor

from exml.core.admission import guarded
from exml.core.expert import Expert
from exml.core.rng import global_seed, make_generator
from exml.core.samples import inference_batch_size
from exml.core.shapes import Images, State
from exml.experts.screening import SEATS, Observation, Screening, contradict, copies, screen
from exml.generators.procedural import dead_leaves, smooth_noise, strokes

_SIDE = 32  # of a drawing; larger images are resized, since drawing takes time
_FEWEST = 32  # images of a family


@attrs.define
class Panel:
    """The experts that a new one is compared with: the latest that were not suspect."""

    seats: tuple[Observation, ...] = ()

    def preview(self, loads: Sequence[Callable[[], Expert]], device: torch.device, /) -> None:
        """Seat the first experts of a stream before the student learns, so that the first one can be outvoted too."""
        found: list[Observation] = []
        for load in loads[:SEATS]:
            try:
                expert = load()
                home = expert.device
                try:
                    seen = self.observe(expert.to(device))
                    found += [] if any(copies(seen, one) for one in found) else [seen]
                finally:
                    expert.to(home)
            except Exception:
                continue  # its turn will come, and the error with it
        self.seats = tuple(one for one in found if bool(one.logits.isfinite().all()) and not screen(one, found).reasons)

    @torch.no_grad()
    def observe(self, expert: Expert, /) -> Observation:
        """The expert's logits for the shared images; whatever its module raises becomes an ExpertError."""
        shape = expert.image_shape
        size = inference_batch_size(shape)

        def run(family: Images) -> Tensor:
            parts = family.to(expert.device).split(size)
            return torch.cat([expert.own_logits(expert.logits(part)).float().cpu() for part in parts])

        expected = f"logits for {len(shared_images(shape)[0])} drawings (expert {expert.name!r})"
        remedy = "correct its module, so that it takes a batch of any images"
        with guarded(expert.module, expected, remedy), global_seed(0, "screening"):
            logits = torch.stack([run(family) for family in shared_images(shape)])
        order = expert.class_ids.argsort()
        return Observation(expert.name, expert.class_ids[order], logits[..., order])

    def screen(self, expert: Observation, /) -> Screening:
        """The figures of an expert, and the judgment of the panel."""
        return screen(expert, self.seats)

    def seat(self, expert: Observation, /) -> list[Screening]:
        """Seat an expert; returns the screenings of those that it shows to be suspect, which lose their seats."""
        others = [one for one in self.seats if not copies(one, expert)]
        judged = [(one, screen(one, [*others, expert])) for one in others if contradict(one, expert)]
        suspect = [(one, found) for one, found in judged if found.reasons]
        kept = [one for one in others if all(one is not other for other, _ in suspect)]
        self.seats = (*kept, expert)[-SEATS:]
        return [found for _, found in suspect]

    def state(self) -> State:
        """Tensors to restore it from."""
        return {
            f"{seat}.{part}.{one.name}": tensor
            for seat, one in enumerate(self.seats)
            for part, tensor in (("classes", one.classes), ("logits", one.logits))
        }

    def restore(self, state: State, /) -> None:
        """The inverse of :meth:`state`."""
        seats: dict[int, dict[str, Any]] = {}
        for key, value in state.items():
            seat, part, name = key.split(".", 2)
            seats.setdefault(int(seat), {"name": name})[part] = value
        self.seats = tuple(Observation(**seats[seat]) for seat in sorted(seats))


@lru_cache(maxsize=1)
def shared_images(image_shape: tuple[int, int, int], /) -> tuple[Images, ...]:
    """Light strokes, dark strokes, and textures, which are the same in every process; in pixel units, on the CPU."""
    channels, height, width = image_shape
    small = channels, min(height, _SIDE), min(width, _SIDE)
    count = max(_FEWEST, inference_batch_size(image_shape) // 4)
    draws = make_generator("cpu", 0, "screening")
    light = strokes(count, small, draws, "light")
    light = light / light.amax((1, 2, 3), keepdim=True).clamp_min(0.05)
    textures = torch.cat([dead_leaves(count // 2, small, draws), smooth_noise(count - count // 2, small, draws)])
    families = light, 1 - light, textures
    if small[1:] == (height, width):
        return families
    return tuple(torch.nn.functional.interpolate(part, (height, width), mode="bilinear") for part in families)
