"""Write the pages of the API reference, and resolve the names in signatures and docstrings."""

from __future__ import annotations

import builtins
import inspect
import pydoc
import re
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import coverage_check
from cyclopts.docs.rst import generate_rst_docs
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.intersphinx import InventoryAdapter, missing_reference
from sphinx.util import logging
from sphinx.util.inspect import stringify_signature
from sphinx.util.nodes import make_refnode

from exml.cli._main import app

logger = logging.getLogger(__name__)

FIRST = ["protocols", "experts", "generators", "priors", "augmentation"]
FIRST += ["calibrations", "normalizers", "combiners", "losses"]
"""Right after ``exml`` in the index; the rest follow by name, those of the core at the end."""


def write_pages(sphinx: Sphinx) -> None:
    """One page per module that is the home of public names, one for the command line, and an index."""
    folder = Path(sphinx.srcdir) / "api"
    homes = coverage_check.homes()
    pages = {f"{module}.rst": _page(module, names) for module, names in homes.items()}
    first = [coverage_check.PACKAGE, *(f"{coverage_check.PACKAGE}.{name}" for name in FIRST)]
    order = first + sorted(set(homes) - set(first), key=lambda module: (module.startswith("exml.core"), module))
    pages["index.rst"] = _index(order)
    pages["command-line.rst"] = _commands()
    for path in folder.glob("*.rst"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():  # Sphinx does not read an unchanged page again
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _index(modules: list[str]) -> str:
    rows = [f"   * - :doc:`{module}`\n     - {_first_line(sys.modules[module].__doc__)}" for module in modules]
    listed = "\n".join(f"   {module}" for module in modules)
    return (
        f"{_title('API reference')}\nEvery public name, by the module that it is imported from.\n\n"
        ".. list-table::\n   :widths: 30 70\n   :class: modules\n\n" + "\n".join(rows) + "\n\n"
        f".. toctree::\n   :hidden:\n\n{listed}\n"
    )


def _commands() -> str:
    text = generate_rst_docs(app, generate_toc=False, no_root_title=True)
    return f"{_title('Command line')}\nEvery command with all of its options.\n\n{text}"


def _page(module: str, names: list[coverage_check.Name]) -> str:
    parts = [_title(module), f".. automodule:: {module}\n"]
    listed = names
    if module == coverage_check.PACKAGE:  # the front door also lists what it re-exports
        listed = coverage_check.public_names(sys.modules[module])
    return "\n".join([*parts, _table(listed), *map(_entry, names)])


def _table(names: list[coverage_check.Name]) -> str:
    rows = [f"   * - :obj:`~{name.path}`\n     - {_first_line(name.text)}" for name in names]
    return ".. list-table::\n   :widths: 30 70\n   :class: names\n\n" + "\n".join(rows) + "\n"


def _entry(name: coverage_check.Name) -> str:
    if name.is_constant:
        value = f"   :value: {name.constant.value}\n" if name.constant else ""
        return f".. py:data:: {name.name}\n   :module: {name.module}\n{value}\n{textwrap.indent(name.text, '   ')}\n"
    if not inspect.isclass(name.value):
        return f".. autofunction:: {name.path}\n\n.. minigallery:: {name.path}\n"
    bases = "   :show-inheritance:\n" if issubclass(name.value, Exception) else ""
    options = f"   :members:\n   :special-members: __call__\n{bases}"
    return f".. autoclass:: {name.path}\n{options}\n.. minigallery:: {name.path}\n"


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"


def _first_line(text: str | None) -> str:
    paragraph = inspect.cleandoc(text or "").split("\n\n")[0]
    return re.sub(r":(?:attr|meth):`([^`.]+)`", r"``\1``", " ".join(paragraph.split()))


class _Elsewhere:
    """A default that is computed when the object is constructed."""

    def __repr__(self) -> str:
        return "..."


def write_signature(
    sphinx: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None] | None:
    """Show annotations as the source has them: ``Images``, not the expression behind it."""
    if what not in {"class", "exception", "function", "method"}:
        return None
    if getattr(value, "_is_protocol", False):
        return "", None
    found = inspect.signature(value)
    fields = attrs.fields(value) if inspect.isclass(value) and attrs.has(value) else ()
    by_name = {field.alias: field for field in fields}
    parameters = [
        _qualified(_as_written(parameter, by_name.get(parameter.name)), value.__module__)
        for parameter in found.parameters.values()
    ]
    if what == "method" and signature is not None and not isinstance(_static(name), classmethod | staticmethod):
        parameters = parameters[1:]
    if what in {"class", "exception"}:
        found = found.replace(return_annotation=inspect.Signature.empty)
    returned_value = inspect.Parameter("_", inspect.Parameter.POSITIONAL_ONLY, annotation=found.return_annotation)
    returns = _qualified(returned_value, value.__module__).annotation
    text = stringify_signature(found.replace(parameters=parameters, return_annotation=returns))
    arguments, arrow, result = text.rpartition(" -> ")
    return (arguments, result) if arrow else (text, None)


def _as_written(parameter: inspect.Parameter, field: attrs.Attribute[Any] | None) -> inspect.Parameter:
    """Type and default of an attrs field as its class states them; the generated ``__init__`` knows the converter's."""
    if field is None:
        return parameter
    computed = isinstance(field.default, attrs.Factory)
    default = parameter.empty if field.default is attrs.NOTHING else _Elsewhere() if computed else field.default
    return parameter.replace(annotation=field.type, default=default)


def _qualified(parameter: inspect.Parameter, module: str) -> inspect.Parameter:
    """With the full path of every name in its annotation that has an entry; the page shows the last part."""

    def replace(match: re.Match[str]) -> str:
        known, value = _find(match["name"], module) if match["name"] else (False, None)
        home = _home(match["name"], value) if known else None
        return home.path if home else match[0]

    if not isinstance(parameter.annotation, str):
        return parameter
    quoted_or_name = r"'[^']*'|\"[^\"]*\"|(?P<name>[A-Za-z_][\w.]*)"
    return parameter.replace(annotation=re.sub(quoted_or_name, replace, parameter.annotation))


def _home(target: str, value: Any) -> coverage_check.Name | None:
    """The entry of an object that the source calls by some name."""
    for name in (name for names in coverage_check.homes().values() for name in names):
        if name.value is value and (not name.is_constant or name.name == target.rpartition(".")[2]):
            return name
    return None


def _static(path: str) -> Any:
    """What a class body holds under a name: a classmethod is still one here."""
    owner = pydoc.locate(path.rpartition(".")[0])
    return inspect.getattr_static(owner, path.rpartition(".")[2])


def add_aliases(sphinx: Sphinx, env: BuildEnvironment) -> None:
    """Let every public path lead to the entry, and warn about a public name without one."""
    objects = env.domains.python_domain.objects
    for alias, home in coverage_check.aliases().items():
        entries = [path for path in objects if path == home or path.startswith(f"{home}.")]
        objects |= {alias + path.removeprefix(home): objects[path]._replace(aliased=True) for path in entries}
    public = {name.path for module in coverage_check.public_modules() for name in coverage_check.public_names(module)}
    for path in sorted(public - set(objects)):
        logger.warning("%s is public and has no entry in the reference", path)
    for path in sorted(set(coverage_check.undocumented())):
        logger.warning("%s is public and has no docstring", path)


def resolve(sphinx: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> nodes.Node | None:
    """Find the entry of a name as the code spells it; a name of another library stays plain text.

    Annotations contain names such as ``Images`` or ``Expert``, without a module or with a private one. They are looked
    up in the modules of the package, as Python does. Sphinx warns about names that are not found.
    """
    if node.get("refdomain") != "py":
        return None
    owner = pydoc.locate(f"{node.get('py:module')}.{node.get('py:class')}") if node["reftype"] == "attr" else None
    if inspect.isclass(owner) and node["reftarget"] in inspect.signature(owner).parameters:
        return content  # explained with the arguments of its class
    known, value = _find(node["reftarget"])
    if not known:
        return None
    home = _home(node["reftarget"], value)
    if home is not None and home.path in (objects := env.domains.python_domain.objects):
        entry = objects[home.path]
        return make_refnode(sphinx.builder, node["refdoc"], entry.docname, entry.node_id, content, home.path)
    module = getattr(value, "__module__", None) or ""
    ours = module == coverage_check.PACKAGE or module.startswith(f"{coverage_check.PACKAGE}.")
    if ours and not _is_variable(value):
        return None
    return _elsewhere(sphinx, env, node, content, value) or content


def _elsewhere(
    sphinx: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement, value: Any
) -> nodes.Node | None:
    """A link to the documentation of another library, which lists the object under a name of its own."""
    if id(value) not in (listed := _listed(env)):
        return None
    node["reftype"], node["reftarget"] = listed[id(value)]
    return missing_reference(sphinx, env, node, content)


@cache
def _listed(env: BuildEnvironment) -> dict[int, tuple[str, str]]:
    """Type and name of every object of an inventory, by its identity."""
    found: dict[int, tuple[str, str]] = {}
    for kind, items in InventoryAdapter(env).main_inventory.items():
        for name in items:
            value = pydoc.locate(name)
            if value is None and name != "None":
                logger.warning("%s is in docs/inventories and does not exist", name)
            found[id(value)] = (kind.removeprefix("py:"), name)
    return found


def _is_variable(value: Any) -> bool:
    """Type variables need no entry."""
    return type(value).__name__ in {"TypeVar", "ParamSpec", "TypeVarTuple"}


def _find(target: str, module: str = coverage_check.PACKAGE) -> tuple[bool, Any]:
    """The object that a dotted name means in a module, in any other of the package, or by its full path."""
    first, *rest = target.split(".")
    for place in [module, *coverage_check.loaded()]:
        scope = vars(sys.modules[place])
        if first in scope or hasattr(builtins, first):
            value = scope.get(first, getattr(builtins, first, None))
            try:
                for part in rest:
                    value = getattr(value, part)
            except AttributeError:
                continue
            return True, value
    value = pydoc.locate(target)
    return value is not None, value


def setup(sphinx: Sphinx) -> dict[str, bool]:
    """Connect to the build."""
    sphinx.connect("builder-inited", write_pages)
    sphinx.connect("autodoc-process-signature", write_signature)
    sphinx.connect("env-updated", add_aliases)
    sphinx.connect("missing-reference", resolve, priority=400)  # before intersphinx, which takes names literally
    return {"parallel_read_safe": True, "parallel_write_safe": True}
