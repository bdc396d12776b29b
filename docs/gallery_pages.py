"""The executed gallery: the order of its scripts, their figures, and their notebooks in Colab."""

from __future__ import annotations

import ast
import atexit
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx_gallery.scrapers import figure_rst

HERE = Path(__file__).parent
ORDER = ["priors", "iterations", "generators", "buffer", "targets", "typicality", "baselines", "heterogeneous"]
ORDER += ["growing_head", "strangers", "result"]


def position(name: str) -> int:
    """The place of a script in the gallery."""
    return ORDER.index(Path(name).stem)


def scrape(block: Any, variables: dict[str, Any], gallery: dict[str, Any]) -> str:
    """Show a figure without pyplot, such as those of exml, that is the value of the last line, as a notebook does."""
    last = variables["example_globals"].get("___")
    if not isinstance(last, Figure) or not isinstance(ast.parse(block.content).body[-1], ast.Expr):
        return ""
    path = Path(next(variables["image_path_iterator"]))
    paths = {0: path, 2.0: path.with_stem(f"{path.stem}_2x")}
    for factor, file in paths.items():
        last.savefig(file, dpi=100 * (factor or 1))
    titles = [last.get_suptitle(), *(axis.get_title(loc) for axis in last.axes for loc in ("left", "center"))]
    return figure_rst([path], gallery["src_dir"], ", ".join(filter(None, titles)), srcsetpaths=[paths])


def files_of_pages(folder: str) -> str:
    """A new folder with all files that the pages of a folder show, for their pictures to import."""
    made = tempfile.mkdtemp(prefix="exml-docs-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    for page in sorted((HERE / folder).glob("*.md")):
        blocks = re.findall(
            r"```\{code-block\} python\n:caption: (\S+)\n\n(.*?)```", page.read_text("utf-8"), re.DOTALL
        )
        for name, text in blocks:
            (Path(made) / name).write_text(text, encoding="utf-8")
    return made


def repository() -> str:
    """``owner/name`` on GitHub of the repository that this clone comes from; empty if it comes from elsewhere."""
    command = ["git", "config", "--get", "remote.origin.url"]
    found = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False).stdout
    match = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(\.git)?/?$", found.strip())
    return match[1] if match else ""


def install_cell() -> str:
    """The first cell of every notebook."""
    address = f"git+https://github.com/{repository()}" if repository() else "PATH_OF_A_CLONE_OF_EXML"
    return (
        "# Install exml if it is missing, as in Colab.\nimport importlib.util\n\n"
        f'if importlib.util.find_spec("exml") is None:\n    %pip install --quiet {address}\n%matplotlib inline'
    )


def link_colab(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add a link to the top of a page. Colab opens the notebook from the published site, the branch ``gh-pages``."""
    folder, _, name = docname.rpartition("/")
    if folder != "gallery" or name not in ORDER:
        return
    digest = hashlib.md5(f"{docname}.ipynb".encode(), usedforsecurity=False).hexdigest()
    target = f"github/{repository()}/blob/gh-pages/_downloads/{digest}/{name}.ipynb" if repository() else ""
    link = f"to download it as a notebook or a script, or `open it in Colab <https://colab.research.google.com/{target}>`__."
    source[0] = source[0].replace("to download the full example code.", link)


def remove_experts(app: Sphinx) -> None:
    """Train the experts of the gallery again in each build."""
    shutil.rmtree(HERE / "examples" / "experts", ignore_errors=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the build."""
    app.connect("builder-inited", remove_experts, priority=1)
    app.connect("source-read", link_colab)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
