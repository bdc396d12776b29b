"""Look at every page of the built site in Chromium, as narrow and wide, light and dark screens show it.

    uv run python docs/check_site.py docs/_build/html

Fails if axe-core finds a violation, a page is wider than its screen, a formula is cut off, a script fails, or the
search finds nothing for a word that people look for. Without Chromium on the path, it says so and checks nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Page, sync_playwright

WIDTHS = (1280, 390)
SEARCHES = (
    """
custom prior, custom loss, normalizer, class labels, gpu, memory, out of memory, resume, checkpoint, tensorboard, wandb,
notebook, colab, onnx, hugging face, timm, export, cite
""".replace("\n", " ")
    .strip()
    .split(", ")
)
"""What people look for."""
SLOWEST = 300_000
"""Milliseconds for a page to load."""
SETTLED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""The observers of sizes run in the first frame."""
FORMULAS = """() => [...document.querySelectorAll("div.math")].flatMap((box) => {
  const right = Math.max(...[...box.querySelectorAll("*")].map((part) => part.getBoundingClientRect().right));
  const [formula, number] = [...box.children].map((part) => part.getBoundingClientRect());
  const overlap = number && number.top < formula.bottom && number.left < formula.right;
  return right > box.getBoundingClientRect().right + 1 || overlap ? [box.textContent.replace(/\\s+/g, "")] : [];
})"""


def chromium() -> str | None:
    """Path of the browser."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def pages(site: Path) -> list[Path]:
    """All pages; of those with source code, which differ in their text alone, the shortest."""
    found = sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)
    code = [path for path in found if "_modules" in path.parts]
    return [path for path in found if path not in code] + sorted(code, key=lambda path: path.stat().st_size)[:1]


def faults(page: Page, path: Path) -> Iterator[str]:
    """What is wrong with one page. Colors are the only thing that depends on the scheme."""
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.emulate_media(color_scheme="light")
    page.goto(path.resolve().as_uri())
    page.evaluate(Path(AXE_FILE_PATH).read_text(encoding="utf-8"))
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate(SETTLED)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            only = {} if scheme == "light" else {"runOnly": ["color-contrast"]}
            found = page.evaluate(
                "(only) => axe.run(document, {resultTypes: ['violations'], preload: false, ...only})", only
            )
            for rule in found["violations"]:
                places = [f"{node['html'][:120]!r}" for node in rule["nodes"]]
                yield f"{width} px, {scheme}: {rule['id']}: {len(places)} times, such as {places[0]}"
        if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
            yield f"{width} px: the page is {wide} px wide"
        yield from (f"{width} px: this formula is cut off: {formula}" for formula in page.evaluate(FORMULAS))
    yield from (f"error in the console: {text}" for text in heard)


def unfound(page: Page, search: Path) -> Iterator[str]:
    """What the search of the site does not find."""
    for words in SEARCHES:
        page.goto(f"{search.resolve().as_uri()}?q={words.replace(' ', '+')}")
        page.wait_for_function("document.querySelector('.search-summary')?.textContent.includes('finished')")
        if not page.locator("#search-results li").count():
            yield f"the search finds nothing for {words!r}"


def wrongs(site: Path, paths: list[Path], browser: str) -> list[str]:
    """The faults of some pages, in a browser of their own."""
    found: list[str] = []
    with sync_playwright() as driver:
        context = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_context()
        for path in paths:
            page = context.new_page()
            page.set_default_timeout(SLOWEST)
            found += [f"{path.relative_to(site)}: {fault}" for fault in faults(page, path)]
            if path == site / "search.html":
                found += [f"{path.relative_to(site)}: {fault}" for fault in unfound(page, path)]
            page.close()
    return found


def main(site: Path, only: str = "") -> int:
    """Print the faults of all pages, or of those with a word in their path; the exit code is 1 if there are any."""
    if (browser := chromium()) is None:
        print("skipped: needs Chromium")
        return 0
    checked, workers = [path for path in pages(site) if only in str(path)], os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        shares = [checked[start::workers] for start in range(workers)]
        found = [fault for share in pool.map(lambda paths: wrongs(site, paths, browser), shares) for fault in share]
    print(*found, f"{len(checked)} pages, {len(found)} faults", sep="\n")
    return int(bool(found) or not checked)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
