"""Observers that write what a run reports to the loggers that people use."""

from __future__ import annotations

import csv
import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from exml.core.errors import SettingError
from exml.core.files import open_to_write
from exml.learning import events
from exml.learning.events import Event
from exml.runs.figures import montage

ACROSS, DOWN = 8, 4
"""Generated images of each experience that are logged, in a grid."""
Setting: TypeAlias = str | int | float | bool


class MetricLogger(ABC):
    """An observer that turns events into settings, scalars and images; subclasses write them somewhere.

    Scalars are ``loss``, by the number of distillation steps in the whole stream, and, by experience,
    ``stream_accuracy`` and ``accuracy/1``, ``accuracy/2``, ... on the test images of each experience, where there are
    any, and ``buffer_size``. Images are up to 32 that the generator made for an expert. Settings are those of
    :class:`exml.learning.events.StrategyStarted`. A resumed run logs the steps after its last checkpoint again.

    Args:
        every: distillation steps between two losses; reading a loss synchronizes an accelerator.

    >>> from exml.learning import events
    >>> from exml.runs import MetricLogger
    >>> class Printed(MetricLogger):
    ...     def log_settings(self, strategy, settings): pass
    ...     def log_scalar(self, strategy, name, step, value): print(strategy, name, step, value)
    ...     def log_image(self, strategy, name, step, image): pass
    >>> printed = Printed(every=10)
    >>> printed(events.StrategyStarted("exml", 5))
    >>> printed(events.StudentEvaluated("exml", 1, (0.9, 0.0), 0.9))
    exml stream_accuracy 1 0.9
    exml accuracy/1 1 0.9
    exml accuracy/2 1 0.0
    """

    def __init__(self, every: int = 10) -> None:
        if every < 1:
            raise SettingError(expected="every >= 1", got=str(every), remedy="log every step with every=1")
        self._every = every
        self._strategy = ""

    def __enter__(self) -> MetricLogger:
        """Open until the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write everything that is buffered."""
        self.close()

    def __call__(self, event: Event, /) -> None:
        """Log what an event reports."""
        match event:
            case events.StrategyStarted(name, _, settings):
                self._strategy = name
                self.log_settings(name, settings)
            case events.DistillationProgress(experience, done, total, loss) if done % self._every == 0 or done == total:
                self.log_scalar(self._strategy, "loss", (experience - 1) * total + done, float(loss))
            case events.BufferUpdated(experience, new, memory):
                self.log_scalar(self._strategy, "buffer_size", experience, len(memory))
                images = new.pixels(slice(ACROSS * DOWN)).detach().float().cpu()
                page = montage(images, min(ACROSS, len(images)), -(-len(images) // ACROSS))
                self.log_image(self._strategy, "images", experience, (255 * page).round().byte().numpy())
            case events.StudentEvaluated(name, experience, accuracy, stream_accuracy):
                self.log_scalar(name, "stream_accuracy", experience, stream_accuracy)
                for number, value in enumerate(accuracy, 1):
                    self.log_scalar(name, f"accuracy/{number}", experience, value)
            case _:
                pass

    @abstractmethod
    def log_settings(self, strategy: str, settings: Mapping[str, Setting], /) -> None:
        """Log the settings of a strategy; its name is empty for a :class:`exml.Learner` outside of a run."""

    @abstractmethod
    def log_scalar(self, strategy: str, name: str, step: int, value: float, /) -> None:
        """Log a number."""

    @abstractmethod
    def log_image(self, strategy: str, name: str, step: int, image: NDArray[np.uint8], /) -> None:
        """Log an image ``(height, width, 3)``."""

    def close(self) -> None:  # noqa: B027 - most loggers buffer nothing
        """Write everything that is buffered."""


class CSVLogger(MetricLogger):
    """Appends to ``metrics.csv`` (strategy, name, step, value) and ``settings.csv`` (strategy, name, value).

    Images are not written. Rows of a resumed run are appended; the last row of a step is the valid one.

    Args:
        folder: created at the first row.
        every: distillation steps between two losses.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from exml.learning import events
    >>> from exml.runs import CSVLogger
    >>> with tempfile.TemporaryDirectory() as folder, CSVLogger(folder) as log:
    ...     log(events.StudentEvaluated("exml", 1, (0.9,), 0.9))
    ...     print((Path(folder) / "metrics.csv").read_text())
    strategy,name,step,value
    exml,stream_accuracy,1,0.9
    exml,accuracy/1,1,0.9
    """

    def __init__(self, folder: Path | str, every: int = 10) -> None:
        super().__init__(every)
        self._folder = Path(folder)
        self._files: dict[str, IO[bytes]] = {}

    def log_settings(self, strategy: str, settings: Mapping[str, Setting], /) -> None:
        """Append a row per setting."""
        for name, value in settings.items():
            self._append("settings.csv", ("strategy", "name", "value"), (strategy, name, value))

    def log_scalar(self, strategy: str, name: str, step: int, value: float, /) -> None:
        """Append a row."""
        self._append("metrics.csv", ("strategy", "name", "step", "value"), (strategy, name, step, value))

    def log_image(self, strategy: str, name: str, step: int, image: NDArray[np.uint8], /) -> None:
        """Images do not fit a table."""

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _append(self, name: str, head: tuple[str, ...], row: tuple[object, ...]) -> None:
        if name not in self._files:
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""  # a kill may cut the last row
            self._files[name] = file = open_to_write(path)
            file.truncate(len(kept) + 1 if kept else 0)
            file.seek(0, os.SEEK_END)
            if not kept:
                self._append(name, head, head)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        self._files[name].write(text.getvalue().encode(errors="backslashreplace"))
        self._files[name].flush()


class TensorBoardLogger(MetricLogger):
    """Writes event files for TensorBoard, with settings as hyperparameters: ``tensorboard --logdir FOLDER``.

    Each strategy is a run of its own, in a subfolder.

    Args:
        folder: of the event files; created at the first one.
        every: distillation steps between two losses.

    Raises:
        SettingError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path | str, every: int = 10) -> None:
        super().__init__(every)
        self._folder = Path(folder)
        self._writers: dict[str, Any] = {}
        try:
            import torch.utils.tensorboard as tensorboard
        except ImportError as error:
            remedy = "pip install exml[tensorboard]"
            raise SettingError(expected="the package tensorboard", got=str(error), remedy=remedy) from error
        self._library: Any = tensorboard

    def log_settings(self, strategy: str, settings: Mapping[str, Setting], /) -> None:
        """Log hyperparameters, next to the last stream accuracy."""
        for part in self._library.summary.hparams(dict(settings), {"stream_accuracy": 0.0}):
            self._of(strategy).file_writer.add_summary(part)

    def log_scalar(self, strategy: str, name: str, step: int, value: float, /) -> None:
        """Log a scalar."""
        self._of(strategy).add_scalar(name, value, step)

    def log_image(self, strategy: str, name: str, step: int, image: NDArray[np.uint8], /) -> None:
        """Log an image."""
        self._of(strategy).add_image(name, image, step, dataformats="HWC")
        self._of(strategy).flush()

    def close(self) -> None:
        """Close the event files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _of(self, strategy: str) -> Any:
        if strategy not in self._writers:
            self._writers[strategy] = self._library.SummaryWriter(str(self._folder / strategy))
        return self._writers[strategy]


class WandbLogger(MetricLogger):
    """Logs to Weights & Biases, which is not a dependency of exml.

    Names begin with that of the strategy. Each scalar has its own step, ``exml/loss/step`` for ``exml/loss``.

    Args:
        wandb: the module, after ``wandb.init(...)``.
        every: distillation steps between two losses.
    """

    def __init__(self, wandb: Any, every: int = 10) -> None:
        super().__init__(every)
        self._wandb = wandb
        self._defined = set[str]()

    def log_settings(self, strategy: str, settings: Mapping[str, Setting], /) -> None:
        """Add the settings to the configuration of the run."""
        self._wandb.config.update({_named(strategy, name): value for name, value in settings.items()})

    def log_scalar(self, strategy: str, name: str, step: int, value: float, /) -> None:
        """Log a scalar with its step."""
        self._log(_named(strategy, name), step, value)

    def log_image(self, strategy: str, name: str, step: int, image: NDArray[np.uint8], /) -> None:
        """Log an image with its step."""
        self._log(_named(strategy, name), step, self._wandb.Image(image))

    def _log(self, name: str, step: int, value: object) -> None:
        if name not in self._defined:
            self._wandb.define_metric(name, step_metric=f"{name}/step")
            self._defined.add(name)
        self._wandb.log({name: value, f"{name}/step": step})


class MLflowLogger(MetricLogger):
    """Logs to the active run of MLflow, which is not a dependency of exml.

    Names begin with that of the strategy. Images are artifacts, such as ``exml/images-1.png``.

    Args:
        mlflow: the module.
        every: distillation steps between two losses.
    """

    def __init__(self, mlflow: Any, every: int = 10) -> None:
        super().__init__(every)
        self._mlflow = mlflow

    def log_settings(self, strategy: str, settings: Mapping[str, Setting], /) -> None:
        """Log the settings as parameters."""
        self._mlflow.log_params({_mlflow_name(strategy, name): value for name, value in settings.items()})

    def log_scalar(self, strategy: str, name: str, step: int, value: float, /) -> None:
        """Log a metric."""
        self._mlflow.log_metric(_mlflow_name(strategy, name), value, step=step)

    def log_image(self, strategy: str, name: str, step: int, image: NDArray[np.uint8], /) -> None:
        """Log an image as an artifact."""
        self._mlflow.log_image(image, f"{_mlflow_name(strategy, name)}-{step}.png")


def _named(strategy: str, name: str) -> str:
    return f"{strategy}/{name}" if strategy else name


def _mlflow_name(strategy: str, name: str) -> str:
    """MLflow allows few characters in names."""
    return re.sub(r"[^\w .:/-]", "_", _named(strategy, name), flags=re.ASCII)


LOGGERS: Mapping[str, type[CSVLogger] | type[TensorBoardLogger]] = {
    "csv": CSVLogger,
    "tensorboard": TensorBoardLogger,
}
"""The loggers of ``--log``, which take a folder."""
