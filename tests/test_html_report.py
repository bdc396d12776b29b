"""The page that ``exml report`` writes, read and looked at in a browser."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error as BrowserError
from playwright.sync_api import sync_playwright

import exml
from exml.cli import main
from exml.core.errors import CheckpointError, ConfigError, SettingError
from exml.core.records import read_record, write_record
from exml.runs import Result, write_report
from exml.runs.record import Record
from exml.scenarios import registry
from tests import tiny

HOSTILE = "<script>alert(1)</script>\x1b[31m"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run over a scenario with two strategies, one with other settings, and one from experts in memory."""
    base = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for name, factory in tiny.FACTORIES.items():
            patch.setitem(registry._FACTORIES, name, factory)
        tiny.run("tiny-nc", {"plain": tiny.strategy(), "inverted": tiny.inversion()}, base / "one")
        tiny.run("tiny-nc", {"plain": tiny.strategy()}, base / "two", seed=1)
    pets = exml.Expert(network(), labels=["cat", HOSTILE], image_shape=(1, 8, 8), name=HOSTILE)
    farm = exml.Expert(network(), labels=["dog", "cat"], image_shape=(1, 8, 8), name="farm")
    exml.learn([pets, farm], student="conv-net:widths=[4]", strategy=tiny.strategy(), out=base / "merged")
    return base


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except BrowserError as error:
            pytest.skip(f"Chromium does not start: {error}")
        yield opened
        opened.close()


def network():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))


def text_of(path):
    """The visible text of a page."""
    parts, hidden = [], []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _: hidden.append(tag) if tag in ("style", "title") else None
    parser.handle_endtag = lambda tag: hidden.remove(tag) if tag in hidden else None
    parser.handle_data = lambda data: None if hidden else parts.append(data)
    parser.feed(path.read_text())
    return " ".join(" ".join(parts).split())


def test_the_page_has_what_the_run_measured(folders, tmp_path):
    page = write_report([folders / "one"], tmp_path / "page.html")
    result, text = Result.load(folders / "one" / "result.json"), text_of(page)
    for row in result.strategies:
        assert f"{row.name} reaches {100 * row.stream_accuracy[-1]:.1f} % stream accuracy." in text
        for accuracy in row.accuracy[-1]:
            assert f" {100 * accuracy:.1f} " in text
    for row in result.baselines:
        assert row.name in text
    assert "generator gaussian-noise model-inversion" in text  # settings that differ
    assert "exml run tiny-nc --strategy plain.yaml,inverted.yaml --seed 0 --out NEW_FOLDER" in text
    assert result.environments[0].hardware in text
    assert page.read_text().count('src="data:image/png;base64,iVBOR') == 3
    assert "incomplete" not in text


def test_the_files_on_the_page_repeat_the_run(folders, tmp_path):
    """The strategy on the page is the file that the command reads."""
    page = write_report([folders / "two"], tmp_path / "page.html").read_text()
    found = re.search(r"<summary>plain\.yaml</summary><pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert exml.Strategy.from_yaml(found[1]) == tiny.strategy()


def test_paper_shows_the_files_too(folders, tmp_path, browser):
    page = browser.new_page()
    page.goto(write_report([folders / "two"], tmp_path / "page.html").as_uri())
    file = page.locator("details pre").first
    assert not file.is_visible()
    page.emulate_media(media="print")
    assert file.is_visible()
    page.close()


def test_several_runs_are_next_to_each_other(folders, tmp_path):
    text = text_of(write_report([folders / name for name in ("one", "two", "merged")], tmp_path / "page.html"))
    assert "3 runs" in text
    assert re.search(r"seed 0 0 1 0 ", text)
    assert re.search(r"scenario tiny-nc tiny-nc tiny-nc - ", text)


def test_names_cannot_inject_anything(folders, tmp_path):
    page = write_report([folders / "merged"], tmp_path / "page.html")
    assert "<script" not in page.read_text()
    assert r"<script>alert(1)</script>\x1b[31m" in text_of(page)
    assert "pass them to exml.learn again" in " ".join(text_of(page).split())


def test_missing_and_changed_files_are_named(folders, tmp_path):
    run = shutil.copytree(folders / "two", tmp_path / "run")
    (run / "samples.png").unlink()
    (run / "accuracy.png").write_bytes(b"other")
    (run / "stream.jsonl").write_bytes(b"{\n")
    text = text_of(write_report([run], tmp_path / "page.html"))
    wanted = "accuracy.png was changed after the run; samples.png is missing; stream.jsonl was changed after the run"
    assert f"This page is incomplete: {wanted}." in text


def test_a_stopped_run_says_so(folders, tmp_path):
    run = shutil.copytree(folders / "two", tmp_path / "run")
    result = Result.load(run / "result.json")
    row = attrs.evolve(result.strategies[0], accuracy=(), stream_accuracy=(), agreement=None, audit=None)
    attrs.evolve(result, strategies=(row,), baselines=(), stopped=True).save(run / "result.json")
    text = text_of(write_report([run], tmp_path / "page.html"))
    assert "The run was stopped before its end." in text
    assert "No student was evaluated." in text
    assert "result.json was changed after the run" in text


@pytest.mark.parametrize(
    ("damage", "error", "complaint"),
    [
        (shutil.rmtree, CheckpointError, "expected a run in .*, got no folder"),
        (lambda run: (run / "run.json").unlink(), CheckpointError, "got no run.json"),
        (lambda run: (run / "run.json").write_text("{"), CheckpointError, "run.json"),
        (lambda run: (run / "result.json").unlink(), CheckpointError, "got no result.json; .* plain 2.*--resume"),
        (lambda run: (run / "result.json").write_text("[1"), ConfigError, "a result in .*result.json"),
        (lambda run: (run / "result.json").write_text('{"version": 9}'), ConfigError, "version 1"),
    ],
)
def test_what_is_not_a_finished_run_is_one_clear_error(folders, tmp_path, damage, error, complaint):
    run = shutil.copytree(folders / "two", tmp_path / "run")
    damage(run)
    with pytest.raises(error, match=complaint):
        write_report([run], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_wrong_arguments_are_refused(folders, tmp_path):
    for places, name in (([], "a.html"), ([folders / "one"] * 2, "a.html"), ([folders / "one"], "result.json")):
        with pytest.raises(SettingError):
            write_report(places, tmp_path / name)


def test_the_command_repeats_every_setting(folders, tmp_path):
    run = shutil.copytree(folders / "two", tmp_path / "run")
    record = read_record(run / "run.json", Record)
    record.request = attrs.evolve(record.request, device="cuda:1", start="unknown", scenario="a b")
    write_record(run / "run.json", record)
    text = text_of(write_report([run], tmp_path / "page.html"))
    assert "exml run 'a b' --strategy plain.yaml --seed 1 --start unknown --device cuda:1 --out NEW_FOLDER" in text


def test_the_command_writes_the_page(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(folders / "one"), str(folders / "two")]) == 0
    assert capsys.readouterr().out == "Wrote report.html.\n"
    assert Path("report.html").stat().st_size > 10_000
    assert main(["report", str(folders)]) == 2
    assert "got no run.json" in capsys.readouterr().err


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_browser_shows_the_page_offline_and_accessibly(folders, tmp_path, browser, width, scheme):
    page = write_report([folders / name for name in ("one", "two", "merged")], tmp_path / "page.html")
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        shown, heard, asked = context.new_page(), [], []
        shown.on("console", lambda message: heard.append(message.text))
        shown.on("pageerror", lambda error: heard.append(str(error)))
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(page.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
        assert heard == []
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        assert shown.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        # Every region that scrolls can be reached with the keyboard.
        scrolling = "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
        scrolling += "['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).length"
        assert shown.evaluate(scrolling) == 0
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True) as context:
        shown = context.new_page()
        shown.goto(page.as_uri())
        found = Axe().run(shown)
        assert found.violations_count == 0, found.generate_report()
