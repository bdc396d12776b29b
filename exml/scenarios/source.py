"""The real training data of a scenario, for Replay ED (Sec. 5)."""

from __future__ import annotations

import attrs

from exml.core.errors import DataError
from exml.core.registry import component
from exml.core.samples import StoredImages
from exml.core.shapes import Labels
from exml.core.validators import in_range
from exml.scenarios.registry import load


@component
@attrs.frozen
class ScenarioSource:
    """The training images and labels of each experience, which an ex-model learner does not have.

    Args:
        name: of the scenario.
        seed: of the scenario: the seed that its experts were trained with.

    >>> images, labels = ScenarioSource("digits-nc", seed=0)(1)
    >>> images.shape[1:], labels.unique().tolist()
    (torch.Size([1, 8, 8]), [0, 5])
    """

    name: str
    seed: int = attrs.field(default=0, validator=in_range(0, integer=True))
    uses_real_data = True

    def __call__(self, experience: int, /) -> tuple[StoredImages, Labels | None]:
        """All training images of experience i (from 1), as the scenario stores them, with their global class ids.

        Raises:
            UnknownNameError: for an unregistered scenario.
            DataError: for an experience that the scenario does not have.
        """
        scenario = load(self.name, self.seed)
        if not 1 <= experience <= len(scenario.experiences):
            raise DataError(
                expected=f"an experience from 1 to {len(scenario.experiences)}, those of {self.name}",
                got=str(experience),
                remedy="learn from the experts of this scenario, each once",
            )
        train = scenario.experiences[experience - 1].train
        return train.images, train.labels
