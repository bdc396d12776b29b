"""List what is public in exml, and what of it is undocumented.

Public is the ``__all__`` of a package, what a module named there defines (``exml.learning.events``), and what the
modules of a package without ``__all__`` define (``exml.core.errors``), as long as no name on the way begins with an
underscore. The reference is generated from this list. The build and the tests fail while anything on it has no
docstring or no entry.

    python docs/coverage_check.py        # prints what is undocumented; exit code 1 if anything is
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from functools import cache, cached_property
from types import ModuleType
from typing import Any, NamedTuple

from sphinx.pycode import ModuleAnalyzer

PACKAGE = "exml"
WRITTEN = (property, cached_property, classmethod, staticmethod)


class Constant(NamedTuple):
    """The source of a module's variable: the expression on the right, and the docstring below it."""

    value: str
    text: str


class Name(NamedTuple):
    """A public name and the object behind it."""

    module: str
    name: str
    value: Any

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def key(self) -> tuple[str, int]:
        """The same for every path to one object; numbers and aliases may be one object under two names."""
        return (self.name if self.is_constant else "", id(self.value))

    @property
    def is_constant(self) -> bool:
        """Neither a class nor a function of this package."""
        ours = getattr(self.value, "__module__", "").startswith(PACKAGE)
        return not (ours and (inspect.isclass(self.value) or inspect.isroutine(self.value)))

    @property
    def constant(self) -> Constant | None:
        """Its source, in this module or in the module that defines it."""
        for module in [self.module, *loaded()]:
            if self.name in constants(module) and getattr(sys.modules[module], self.name) is self.value:
                return constants(module)[self.name]
        return None

    @property
    def text(self) -> str:
        """Its own docstring; an inherited one (of Exception or object) does not describe this class."""
        if self.is_constant:
            return self.constant.text if self.constant else ""
        return (vars(self.value).get("__doc__") if inspect.isclass(self.value) else self.value.__doc__) or ""


def public_modules() -> list[ModuleType]:
    """``exml``, its packages without an underscore, and the modules that these give to their readers."""

    def inside(package: ModuleType) -> Iterator[ModuleType]:
        yield package
        every = package.__name__ == PACKAGE or not hasattr(package, "__all__")
        for child in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            name = child.name.rpartition(".")[2]
            if name.startswith("_"):
                continue
            if child.ispkg:
                yield from inside(importlib.import_module(child.name))
            elif every or (inspect.ismodule(getattr(package, name, None)) and name in package.__all__):
                yield importlib.import_module(child.name)

    return list(inside(importlib.import_module(PACKAGE)))


def public_names(module: ModuleType) -> list[Name]:
    """The public names of one module, without modules and ``__version__``."""
    if hasattr(module, "__all__"):
        names = list(module.__all__)
    else:
        names = [
            name
            for name, value in vars(module).items()
            if name in constants(module.__name__)
            or (
                getattr(value, "__module__", "") == module.__name__
                and callable(value)
                and hasattr(value, "__qualname__")
            )
        ]
    found = [Name(module.__name__, name, getattr(module, name)) for name in names if not name.startswith("_")]
    return [name for name in found if not inspect.ismodule(name.value)]


def homes() -> dict[str, list[Name]]:
    """The one module that documents each object, with objects in their order.

    The home is the package that exports an object, then ``exml`` itself, then the module that defines it.
    """
    modules = public_modules()
    folders = [module for module in modules[1:] if hasattr(module, "__path__")]
    others = [module for module in modules[1:] if not hasattr(module, "__path__")]
    chosen: dict[str, list[Name]] = {module.__name__: [] for module in modules}
    seen: set[tuple[str, int]] = set()
    for module in [*folders, modules[0], *others]:
        for name in public_names(module):
            if name.key not in seen:
                seen.add(name.key)
                chosen[module.__name__].append(name)
    return {module: names for module, names in chosen.items() if names or module == PACKAGE}


def aliases() -> dict[str, str]:
    """Every other public path to an object, such as ``exml.Expert``, with the path at its home."""
    home = {name.key: name.path for names in homes().values() for name in names}
    every = [name for module in public_modules() for name in public_names(module)]
    return {name.path: home[name.key] for name in every if home[name.key] != name.path}


def undocumented() -> Iterator[str]:
    """Public modules, names and members that have no docstring."""
    yield from (module.__name__ for module in public_modules() if not (module.__doc__ or "").strip())
    for name in (name for names in homes().values() for name in names):
        if not name.text.strip():
            yield name.path
        if inspect.isclass(name.value) and not name.is_constant:
            yield from (f"{name.path}.{member}" for member in silent_members(name.value))


def silent_members(cls: type[Any]) -> Iterator[str]:
    """Methods and properties of a class, ``__call__`` among them, that neither it nor a base of it documents."""
    for base in cls.__mro__:
        for member, value in vars(base).items() if base.__module__.startswith(PACKAGE) else ():
            public = member == "__call__" or not member.startswith("_")
            written = isinstance(value, WRITTEN) or inspect.isfunction(value)
            # Not inspect.getdoc: it finds type.__call__'s words for a __call__ that has none.
            texts = (getattr(vars(above).get(member), "__doc__", None) for above in cls.__mro__)
            if public and written and not any(texts):
                yield member


@cache
def constants(module: str) -> dict[str, Constant]:
    """The documented variables of a module."""
    texts = {
        name: "\n".join(lines)
        for (scope, name), lines in ModuleAnalyzer.for_module(module).find_attr_docs().items()
        if not scope
    }
    values: dict[str, str] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        values |= {ast.unparse(target): ast.unparse(node.value) for target in targets if node.value is not None}
    return {name: Constant(values[name], text) for name, text in texts.items() if name in values}


def loaded() -> list[str]:
    """The modules of the package that are imported, by name."""
    return [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]


def main() -> int:
    """Print what is undocumented."""
    silent = sorted(set(undocumented()))
    print("\n".join(f"no docstring: {path}" for path in silent) or "every public name is documented")
    return bool(silent)


if __name__ == "__main__":
    sys.exit(main())
