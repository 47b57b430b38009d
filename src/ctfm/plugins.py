"""Plug-ins are files: a method, encoder, data set, kind of task or figure is found by its file name."""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ctfm import config
from ctfm.errors import UserError, nearest

ROOT = Path(__file__).parent


def names(kind: str) -> list[str]:
    """Return the names of all plug-ins of a kind (``ssl``, ``encoders``, ``datasets``, ``tasks``, ``figures``)."""
    return sorted(p.stem for p in (ROOT / kind).glob("*.py") if not p.stem.startswith("_"))


def path(kind: str, name: str) -> Path:
    """Return the file of a plug-in.

    Raises:
        UserError: there is no such file; the message names the nearest one.
    """
    file = ROOT / kind / f"{name}.py"
    if name not in names(kind):
        raise UserError(f"no {kind} plug-in called '{name}'{nearest(name, names(kind))} (looked for {kind}/{name}.py)")
    return file


def get(kind: str, name: str) -> ModuleType:
    """Import and return the plug-in ``src/ctfm/<kind>/<name>.py``."""
    path(kind, name)
    return importlib.import_module(f"ctfm.{kind}.{name}")


@cache
def settings(kind: str, name: str) -> type[config.Strict]:
    """Return a plug-in's ``Settings`` class without importing the plug-in (which imports torch).

    The class body is read from the file and run alone, so it may use only builtins, ``typing.Literal``,
    pydantic's ``Field`` and what ``ctfm.config`` defines. A plug-in without one has no settings.
    """
    tree = ast.parse(path(kind, name).read_text())
    found = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings"]
    if not found:
        return config.Strict
    scope: dict[str, Any] = {**vars(config), "__name__": f"ctfm.{kind}.{name}"}
    code = compile(ast.Module(body=list(found), type_ignores=[]), str(path(kind, name)), "exec", dont_inherit=True)
    exec(code, scope)
    return scope["Settings"]


def docstring(kind: str, name: str) -> str:
    """Return what a plug-in's file says of itself, without importing the plug-in."""
    return ast.get_docstring(ast.parse(path(kind, name).read_text(encoding="utf-8"))) or ""


def constant(kind: str, name: str, variable: str, default: str) -> str:
    """Return a text that a plug-in's file gives to a variable, without importing the plug-in."""
    for node in ast.parse(path(kind, name).read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == variable for t in node.targets):
            return str(ast.literal_eval(node.value))
    return default
