"""A package that can be called: `causalrn.export(...)` is a function, and `causalrn.export` the exporters' package.

The import system binds a submodule to its parent as soon as anything in it is imported; a function of the same name in
`causalrn` would then be gone. So the package itself is what is called, whoever imported it first.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package whose call goes to the function of the same name in :mod:`causalrn.workflows`."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the workflow; its module is imported at the first call."""
        name = self.__name__.rpartition(".")[2]
        workflow = getattr(importlib.import_module(f"causalrn.workflows.{name}"), name)
        return workflow(*arguments, **options)


def make_callable(package: str) -> None:
    """Let the package of this name, which is being imported, be called."""
    sys.modules[package].__class__ = CallablePackage
