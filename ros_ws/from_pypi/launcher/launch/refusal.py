"""Refuses by name what this launcher does not provide."""

import importlib.abc
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn


class NotProvidedError(ImportError):
    """The launch file uses a part of ``launch`` that is not here."""

    def __init__(self, what: str) -> None:
        """``what`` is the dotted name of the part."""
        super().__init__(f"{what} is not provided by this launcher; install ros2launch for it")


def refuse_names(module: str) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that names what the module lacks."""

    def get_missing(name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        raise NotProvidedError(f"{module}.{name}")

    return get_missing


def refuse_keywords(target: object, keywords: Mapping[str, object]) -> None:
    """Raises NotProvidedError naming the first of the keywords, if there is any."""
    for keyword in keywords:
        kind = type(target)
        raise NotProvidedError(f"{kind.__module__}.{kind.__name__}({keyword}=...)")


class RefuseUnknownSubmodules(importlib.abc.MetaPathFinder):
    """Last on the import path: names submodules that are not here instead of 'No module named'."""

    def __init__(self, package: str) -> None:
        """``package`` is the top-level package whose submodules are looked after."""
        self.package = package

    @classmethod
    def install(cls, package: str) -> None:
        """Appends a finder for the package."""
        sys.meta_path.append(cls(package))

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Raises NotProvidedError for an unknown submodule of the package."""
        if fullname.startswith(f"{self.package}."):
            raise NotProvidedError(fullname)
