"""What objects look like in a notebook, and a result as a data frame."""

import base64
import io
import re
import sys

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import exml
from exml.core.errors import SettingError
from exml.learning import events
from exml.runs import ProgressDisplay
from tests import tiny
from tests.test_report import make

HOSTILE = "<img src=x onerror=alert(1)>"


def pictures_of(html):
    """The images in a piece of HTML."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_a_strategy_prints_as_a_block_that_is_python():
    strategy = tiny.inversion()
    lines = repr(strategy).splitlines()
    assert lines[0] == "Strategy("
    assert "    buffer=Cumulative(size=16)," in lines
    assert max(map(len, lines)) <= 120
    names = {"Strategy": exml.Strategy, "Training": exml.Training, "Cumulative": exml.buffers.Cumulative}
    for family in (exml.generators, exml.combiners, exml.losses, exml.normalizers):
        names |= vars(family)
    assert eval(repr(strategy), names) == strategy


def test_a_strategy_is_a_table_of_its_fields():
    html = tiny.inversion()._repr_html_()
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", html)
    found = dict(zip(cells[::2], cells[1::2], strict=True))
    assert found["generator"] == "model-inversion"
    assert found["training.learning_rate"] == "0.003"


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_samples_are_thumbnails_of_their_own_pixels(channels):
    images = torch.rand(30, channels, 5, 7) * 1.2  # clamped
    html = exml.Samples.of(images, torch.arange(30))._repr_html_()
    shown = pictures_of(html)
    assert len(shown) == 24
    assert "class 0<" in html
    assert "class 29<" in html
    wanted = images[-1].clamp(0, 1).mul(255).round().permute(1, 2, 0).numpy()
    wanted = wanted if channels == 3 else np.repeat(wanted[..., :1], 3, axis=2)
    assert np.array_equal(shown[-1], wanted)


def test_no_samples_have_no_thumbnail():
    none = exml.Samples.of(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))
    assert pictures_of(none._repr_html_()) == []


def test_an_expert_is_a_card_that_escapes_its_names():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    expert = exml.Expert(module, labels=["cat", HOSTILE], image_shape=(1, 4, 4), name=HOSTILE, task=3)
    html = expert._repr_html_()
    assert "<img" not in html
    assert "34 parameters" in html
    assert "2: cat, &lt;img" in html
    assert ">3</td>" in html


def test_a_result_is_one_line_and_a_card():
    result = make()
    reached = f"exml: stream accuracy {100 * result.strategies[0].stream_accuracy[-1]:.1f} %"
    assert repr(result).startswith(f"Result(digits, seed 7, finished; {reached}, ")
    assert "Oracle" in result._repr_html_()
    assert "does not apply" in make(shared=True)._repr_html_()
    assert "<img" not in attrs.evolve(result, scenario=HOSTILE)._repr_html_()
    bare = attrs.evolve(result.strategies[0], accuracy=(), stream_accuracy=())
    assert "exml: not evaluated" in repr(attrs.evolve(result, strategies=(bare,), stopped=True))


def test_a_result_becomes_a_data_frame():
    pandas = pytest.importorskip("pandas")
    result = make()
    found = result.to_dataframe()
    assert isinstance(found, pandas.DataFrame)
    assert list(found.name) == [row.name for row in (*result.strategies, *result.baselines)]
    assert list(found.role) == ["strategy"] * 3 + ["baseline"] * 4
    row = found.iloc[1]
    assert row.stream_accuracy == result.strategies[1].stream_accuracy[-1]
    assert [row[f"accuracy_{number}"] for number in range(1, 6)] == list(result.strategies[1].accuracy[-1])
    assert found.forgetting.isna().tolist() == [False] * 3 + [True] * 4
    assert make(shared=True).to_dataframe().stream_accuracy.isna().tolist()[-1]
    assert len(attrs.evolve(result, strategies=(), baselines=()).to_dataframe()) == 0


def test_pandas_that_is_not_installed_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SettingError, match="pip install pandas"):
        make().to_dataframe()


def test_progress_is_shown_in_a_notebook_with_ipywidgets(monkeypatch, capsys):
    pytest.importorskip("ipywidgets")
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *parts, **_: shown.extend(parts))
    with ProgressDisplay(Console(force_jupyter=True)) as display:
        display(events.StrategyStarted("exml", 4))
        display(events.StudentEvaluated("exml", 2, (0.5,), 0.5))
    assert shown
    monkeypatch.setattr("exml.runs.display.find_spec", lambda _: None)
    shown.clear()
    with ProgressDisplay(Console(force_jupyter=True)) as display:
        display(events.StrategyStarted("exml", 4))
    assert shown == []
