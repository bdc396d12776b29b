"""What a strategy will cost, in seconds and bytes."""

from __future__ import annotations

import attrs


@attrs.frozen
class Memory:
    """Bytes on one rank's device at the three high points of an experience.

    Args:
        models: the student, its initialisation where it is reset, the expert, and the one that is read ahead.
        generation: beside the models: the buffer of before, the new images, and what the generator needs for a
            mini-batch.
        update: beside the models: the buffer of before and that of after, the new images, and those that are kept.
        distillation: beside the models: the previous student, the gradient, the optimizer, the buffer, the new images,
            the bank of views, and the activations of a mini-batch.
    """

    models: float
    generation: float
    update: float
    distillation: float

    @property
    def peak(self) -> float:
        """The highest of the three, with the models."""
        return self.models + max(self.generation, self.update, self.distillation)


@attrs.frozen
class ExperienceCost:
    """One experience.

    Args:
        images: how many are generated.
        held: how many the buffer holds afterwards.
        generation: seconds.
        distillation: seconds.
        other: seconds of checks, copies and the update of the buffer.
        memory: bytes.
        checkpoint: bytes of its checkpoint's two files, in the middle of its distillation.
    """

    images: int
    held: int
    generation: float
    distillation: float
    other: float
    memory: Memory
    checkpoint: float

    @property
    def seconds(self) -> float:
        """All of them."""
        return self.generation + self.distillation + self.other


@attrs.frozen
class Cost:
    """A stream of experts, learned with one strategy.

    Seconds are those of the computation; the first use of a library, reading experts and writing checkpoints are not
    among them. Bytes are those of tensors on one rank; a library's own workspace, Python and PyTorch themselves come on
    top.

    Args:
        experiences: one for each expert, in order.
        ranks: how many share the work.
        sample_bytes: of an image in the buffer with its labels.
        bank_bytes: of the bank of views, at its largest.

    >>> one = ExperienceCost(10, 10, 1.0, 2.0, 0.5, Memory(100, 20, 30, 50), 40)
    >>> cost = Cost((one, attrs.evolve(one, generation=0.5)), 1, sample_bytes=4, bank_bytes=0)
    >>> cost.seconds, cost.of(2), cost.peak_bytes, cost.buffer_bytes
    (6.5, 3.0, 150, 40)
    >>> print(cost)
    2 experts on 1 rank: 6.5 s (generation 1.5 s, distillation 4.0 s, other 1.0 s); at most 150 bytes of memory (buffer
    40 bytes), checkpoint 40 bytes
    """

    experiences: tuple[ExperienceCost, ...] = attrs.field(repr=lambda experiences: f"<{len(experiences)}>")
    ranks: int
    sample_bytes: float
    bank_bytes: float

    @property
    def experts(self) -> int:
        """How many."""
        return len(self.experiences)

    @property
    def generation(self) -> float:
        """Seconds in which images are made, over the stream."""
        return sum(experience.generation for experience in self.experiences)

    @property
    def distillation(self) -> float:
        """Seconds in which the student is trained, over the stream."""
        return sum(experience.distillation for experience in self.experiences)

    @property
    def other(self) -> float:
        """Seconds of checks, copies and updates of the buffer, over the stream."""
        return sum(experience.other for experience in self.experiences)

    @property
    def seconds(self) -> float:
        """All of them, over the stream."""
        return self.generation + self.distillation + self.other

    @property
    def images(self) -> int:
        """How many are generated, over the stream."""
        return sum(experience.images for experience in self.experiences)

    @property
    def peak_bytes(self) -> float:
        """The most memory that the tensors of one rank take."""
        return max(experience.memory.peak for experience in self.experiences)

    @property
    def buffer_bytes(self) -> float:
        """The buffer at its largest."""
        return self.sample_bytes * max(experience.held for experience in self.experiences)

    @property
    def checkpoint_bytes(self) -> float:
        """The largest checkpoint; while one is written, the one before is still there."""
        return max(experience.checkpoint for experience in self.experiences)

    def of(self, experience: int, /) -> float:
        """Seconds of one experience, from 1."""
        return self.experiences[experience - 1].seconds

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {_time(getattr(self, name))}" for name in ("generation", "distillation", "other"))
        return (
            f"{self.experts:,} expert{'s' * (self.experts > 1)} on {self.ranks} rank{'s' * (self.ranks > 1)}: "
            f"{_time(self.seconds)} ({parts}); at most {_size(self.peak_bytes)} of memory "
            f"(buffer {_size(self.buffer_bytes)}), checkpoint {_size(self.checkpoint_bytes)}"
        )


def _time(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(count: float) -> str:
    for unit, length in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count:.0f} bytes"
