"""Write every page of measurements anew from ``benchmarks/results/``.

uv run python benchmarks/make_pages.py
"""

from __future__ import annotations

import ablation
import deviations
import page_parts
import performance
import results_page

PAGES = (performance.PAGE, results_page.PAGE, ablation.PAGE, deviations.PAGE, *page_parts.PAGES)

if __name__ == "__main__":
    for page in PAGES:
        page.write()
        print(f"wrote docs/{page.name}")
