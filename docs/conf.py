"""Sphinx, with every warning an error; see CONTRIBUTING.md for the command."""

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: on a shared core, two threads wait for each other
sys.path.insert(0, str(Path(__file__).parent))
from gallery_pages import files_of_pages, install_cell

project = "exml"
author = "The exml authors"
copyright = "The exml authors"
release = version = version_of("exml")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
extensions += ["sphinx.ext.intersphinx", "sphinx_copybutton", "sphinx_gallery.gen_gallery", "gallery_pages"]
extensions += ["matplotlib.sphinxext.plot_directive", "mathml", "reference", "accessible"]
exclude_patterns = ["_build", "examples"]
smartquotes = False  # it makes one dash of the two of an option, and quotes that do not run when pasted
nitpicky = True
nitpick_ignore = [("py:class", "CardFields")]  # a dictionary type; its fields are listed at exml.load

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

# Committed lists of names, so that the build needs no network; CONTRIBUTING.md says how to add one.
inventories = Path(__file__).parent / "inventories"
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", str(inventories / "python.txt")),
    "torch": ("https://docs.pytorch.org/docs/stable", str(inventories / "torch.txt")),
    "attrs": ("https://www.attrs.org/en/stable", str(inventories / "attrs.txt")),
    "kornia": ("https://kornia.readthedocs.io/en/latest", str(inventories / "kornia.txt")),
}

copybutton_exclude = ".linenos, .gp, .go"  # prompts and output

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"exml {release}"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["exml.css"]
html_js_files = [("accessible.js", {"defer": "defer"})]
html_show_sourcelink = False
html_copy_source = False

plot_working_directory = files_of_pages("build-your-own")
plot_include_source = True
plot_formats = [("png", 144)]
plot_html_show_formats = False
plot_html_show_source_link = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "/",  # all scripts are executed; one that fails, fails the build
    "within_subsection_order": "gallery_pages.position",
    "minigallery_sort_order": "gallery_pages.position",
    "image_scrapers": ("matplotlib", "gallery_pages.scrape"),
    "image_srcset": ["2x"],
    "ignore_repr_types": "matplotlib",
    "backreferences_dir": "gallery/backreferences",
    "doc_module": ("exml",),
    "first_notebook_cell": install_cell(),
    "write_computation_times": False,
    "show_signature": False,
}
