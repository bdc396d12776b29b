"""Tables of tiny scenarios and strategies, measured in this process."""

from collections.abc import Mapping
from functools import partial

import pytest
from reproduction import Layout, TableColumn, TableRow
from reproduction.cells import commit

from exml.runs import Ended, Failure
from exml.runs.jobs import perform
from tests import tiny


class Built:
    """As far as a reproduction looks, a builder."""

    def __init__(self, strategy):
        self.build = lambda: strategy


def _replay(scenario, seed, iterations):
    return Built(tiny.replay(scenario, seed))


def _noise(scenario, seed, iterations):
    return Built(tiny.strategy(training=tiny.Training(iterations=iterations, batch_size=8, learning_rate=0.003)))


def _inversion(scenario, seed, iterations):
    return Built(tiny.inversion())


def small_layout(imports=(), iterations=8):
    """Two tables; the second column of the first has two experts."""
    recipes = {"paper-model-inversion": _inversion, "paper-noise": _noise, "exml": _replay}
    return Layout(
        columns=(
            TableColumn("tiny-joint", "table2", "Tiny Joint", "Tiny"),
            TableColumn("tiny-nc", "table2", "Tiny-NC", "Tiny"),
            TableColumn("tiny-ni", "table3", "Tiny-NI", "Tiny"),
        ),
        rows=(
            TableRow(name="Oracle", title="Oracle", strategy="baselines", paper="Oracle"),
            TableRow(name="Param. Avg.", title="Param. Avg.", strategy="baselines"),
            TableRow(name="paper-model-inversion", title="MI", strategy="model-inversion", family="paper", paper="MI"),
            TableRow(name="paper-noise", title="Noise", strategy="noise", family="paper"),
            TableRow(name="reference-noise", title="Noise (reference)", strategy="noise", family="reference"),
            TableRow(name="exml", title="ours", strategy="exml"),
        ),
        recipes={name: partial(make, iterations=iterations) for name, make in recipes.items()},
        figures={"MI": {"tiny-nc": (43.23, 3.0)}, "Oracle": {"tiny-nc": (99.4, 0.25)}},
        note="The paper's figures are made up.",
        samples=("tiny-joint", "tiny-nc"),
        imports=imports,
    )


class Here:
    """An executor in this process that fails some runs and stops after a number of them."""

    def __init__(self, fails: Mapping[str, str] | None = None, stop_after: int | None = None):
        self.fails, self.stop_after, self.asked = fails or {}, stop_after, []

    def __call__(self, jobs, resources, tell, /):
        for number, job in enumerate(jobs):
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(job.call.keywords)
            message = next((message for part, message in self.fails.items() if part in job.name), None)
            failure = perform(job, lambda *_: None) if message is None else Failure(message, "Traceback: it broke")
            assert message is not None or failure is None, failure.details
            tell(Ended(job.name, failure))


def prepare(monkeypatch):
    """Register the tiny scenarios, fix the commit, and leave out the pictures of runs."""
    tiny.register(monkeypatch)
    monkeypatch.setenv("EXML_COMMIT", "abc1234")
    tiny.no_figures(monkeypatch)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    commit.cache_clear()
    prepare(monkeypatch)
    yield
    commit.cache_clear()
