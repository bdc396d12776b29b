"""The pages are complete, and what checks them can fail."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import attrs
import pytest
import yaml

import exml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def coverage_check() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("coverage_check", ROOT / "docs" / "coverage_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["coverage_check"] = module  # where its own NamedTuples look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["coverage_check"]


def test_every_public_name_is_documented(coverage_check: ModuleType):
    assert sorted(set(coverage_check.undocumented())) == []


def test_every_public_name_has_one_home(coverage_check: ModuleType):
    homes = [name.path for names in coverage_check.homes().values() for name in names]
    aliases = coverage_check.aliases()
    public = [name.path for module in coverage_check.public_modules() for name in coverage_check.public_names(module)]
    assert len(set(homes)) == len(homes)
    assert set(homes) | set(aliases) == set(public)
    assert set(aliases.values()) <= set(homes)
    assert aliases["exml.Expert"] == "exml.experts.Expert"


def test_a_silent_member_is_found(coverage_check: ModuleType):
    @attrs.frozen
    class Silent:
        """Says something, unlike its members."""

        def __call__(self) -> None: ...

        @property
        def quiet(self) -> int:
            return 0

        @classmethod
        def mute(cls) -> None: ...

        def heard(self) -> None:
            """Documented."""

        def _private(self) -> None: ...

    Silent.__module__ = "exml.silent"
    assert sorted(coverage_check.silent_members(Silent)) == ["__call__", "mute", "quiet"]


def test_the_citations_agree():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (paper,) = cited["references"]
    page = (ROOT / "docs" / "cite.md").read_text(encoding="utf-8")
    assert cited["version"] == exml.__version__
    assert f"version = {{{exml.__version__}}}" in page
    assert f"note    = {{{cited['abstract'].rstrip('.')}}}" in page
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    values = (paper["title"], authors, str(paper["year"]), paper["doi"], paper["url"])
    assert [value for value in values if f"{{{value}}}" not in page] == []


def test_the_check_of_the_site_finds_faults(tmp_path: Path):
    """Text without contrast, a page that is too wide, a formula that is cut off, and a script that fails."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("needs Chromium")
    whole = '<!doctype html><html lang="en"><title>Page</title><main><h1>Page</h1>{}</main></html>'
    pages = {
        "sound": ("<p>Text</p>", ""),
        "contrast": ('<p style="color: #eee">Text</p>', "light: color-contrast"),
        "width": ('<div style="width: 500px">Text</div>', "390 px: the page is 508 px wide"),
        "formula": (
            '<div class="math" style="overflow: hidden; width: 90px"><div style="width: 200px">1 + 1</div></div>',
            "this formula is cut off: 1+1",
        ),
        "script": ("<script>no.such()</script>", "error in the console: no is not defined"),
    }
    for name, (body, _) in pages.items():
        (tmp_path / f"{name}.html").write_text(whole.format(body))
    command = [sys.executable, ROOT / "docs" / "check_site.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    for name, (_, complaint) in pages.items():
        lines = [line for line in done.stdout.splitlines() if line.startswith(f"{name}.html")]
        assert bool(lines) == bool(complaint), done.stdout
        assert complaint in "\n".join(lines), done.stdout


def test_examples_that_do_not_hold_fail(tmp_path: Path):
    pages = {
        "statement": ("```python\nassert 1 == 2\n```", "assert 1 == 2"),
        "doctest": ("```python\n>>> 1 + 1\n3\n```", "Got:\n    2"),
        "shared": ("```python\nnumber = 1\n```\n\n```python\n>>> number + 4\n2\n```", "Got:\n    5"),
        "exit": ("```console\n$ exit 3\n```", "exit code 3"),
        "output": ("```console\n$ echo one\ntwo\n```", "$ echo one"),
        "prompt": ("```console\necho one\n```", "begins with a command"),
        "option": ("```sh\nexml learn experts --studnet conv-net --out merged\n```", "--studnet"),
        "module": ("```sh\ntorchrun -m exml laern experts --out merged\n```", "laern"),
        "yaml": ("```yaml\nseeds: [0]\n```", "name the file of this block"),
        "file": ("```{code-block} yaml\n:caption: a.yaml\n\nx: 1\n```\n\n```console\n$ cat a.yaml\ntwo\n```", "x: 1"),
    }
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "docs").mkdir()
    for name, (page, _) in pages.items():
        (tmp_path / "docs" / f"{name}.md").write_text(f"{page}\n")
    shell = "```sh\ngit clone there exml && cd exml\nexml plan experts  # and its labels\n```\n"
    (tmp_path / "docs" / "sound.md").write_text(f"```console\n$ echo one two\none ...\n$ cd .\n```\n\n{shell}")
    module = 'LIMIT = 3\n\n\ndef relies_on_its_module():\n    """\n    >>> LIMIT\n    3\n    """\n'
    (tmp_path / "module.py").write_text(module)
    (tmp_path / "docs" / "nested").mkdir()
    (tmp_path / "docs" / "nested" / "page.md").write_text("```python\nassert 1 == 3\n```\n")
    options = ["-q", "-p", "no:cacheprovider", "--doctest-modules", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "docs", "module.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    for name, (_, complaint) in pages.items():
        assert f"FAILED docs/{name}.md" in done.stdout, done.stdout
        assert complaint in done.stdout
    assert "FAILED docs/nested/page.md" in done.stdout
    assert "FAILED module.py::module.relies_on_its_module" in done.stdout
    assert "name 'LIMIT' is not defined" in done.stdout
    assert "sound.md" not in done.stdout
