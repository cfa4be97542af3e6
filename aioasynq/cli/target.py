"""``MODULE:NAME``: from what was typed to the ServeMux or Server that is meant, or to words that help."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePath
from types import FunctionType, ModuleType
from typing import NoReturn

import typer

from aioasynq.cli.exits import WRONG_USE, refuse
from aioasynq.mux import ServeMux
from aioasynq.server import Server

SHOWN = 5  #: names that a hint lists
DEEP = 2  #: levels of folders below and above this one that are searched for a module
_NEEDED = "a ServeMux, a Server, or a function that makes one, is needed"


def load(target: str) -> ServeMux | Server:
    """Import what *target* names: from the working directory first; the name may have dots, or be a factory's."""
    module_name, name = split(target)
    module = _import(module_name, name, target)
    found: object = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            refuse(f"module {module_name!r} has no {name!r}; {_what_it_has(module, name)}")
    if isinstance(found, FunctionType):
        found = _make(found, target, module)
    if not isinstance(found, ServeMux | Server):
        refuse(f"{target!r} is of type {type(found).__name__}; {_NEEDED}: {_what_it_has(module)}")
    mux = found.mux if isinstance(found, Server) else found
    if not mux.patterns:
        refuse(f"{target} has no handler; register one with @{name.removesuffix('()')}.task(...) or .handler(...)")
    return found


def split(target: str) -> tuple[str, str]:
    """The module and the name in it."""
    head, colon, name = target.partition(":")
    name = name.removesuffix("()")
    if head.endswith(".py") or "/" in head or "\\" in head:
        refuse(_not_a_path(target, head, name))
    if not (colon and head and name) or head.startswith(".") or ":" in name:
        front, _, last = head.rpartition(".")
        meant = f"{front}:{last} or {head}:mux" if front else f"{head}:mux"
        refuse(f"{target!r} is no MODULE:NAME, as in {'myapp.tasks:mux' if colon or not head else meant}")
    return head, name


def _not_a_path(target: str, head: str, name: str) -> str:
    path = PurePath(head.replace("\\", "/"))
    if not name and path.suffix != ".py":
        path, name = path.parent, path.name
    module = path.with_suffix("") if path.suffix == ".py" else path
    if path.is_absolute() or ".." in path.parts:
        return f"{target!r} is a path; go to {path.parent} and write {module.name}:{name or 'mux'}"
    return f"{target!r} is a path; write {'.'.join(module.parts)}:{name or 'mux'}"


# ── importing ──


def _import(module_name: str, name: str, target: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - an entry of sys.path is a string
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        # Only what was asked for: that some other module is missing is shown with the place that imports it.
        if exc.name is not None and f"{module_name}.".startswith(f"{exc.name}."):
            refuse(_not_found(exc.name, module_name, name, target))
        _fail(f"module {module_name!r} cannot be imported", exc, _folder_hint(exc.name, module_name, name))
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever the user's module raises
        _fail(f"module {module_name!r} cannot be imported", exc)


def _fail(what: str, exc: BaseException, hint: str = "") -> NoReturn:
    """Show the user's own frames, and end."""
    ours = {__file__, importlib.__file__}
    frames = exc.__traceback__
    while frames is not None and (
        frames.tb_frame.f_code.co_filename in ours or frames.tb_frame.f_code.co_filename.startswith("<frozen importlib")
    ):
        frames = frames.tb_next
    typer.echo(f"aioasynq: {what}:", err=True)
    traceback.print_exception(exc.with_traceback(frames))
    if hint:
        refuse(hint)
    raise typer.Exit(WRONG_USE) from None


def _not_found(missing: str, module_name: str, name: str, target: str) -> str:
    here = Path.cwd()
    text = f"there is no module {missing!r} for {target!r}; it was looked for in {here} first"
    package, _, _ = missing.rpartition(".")
    if package and not hasattr(sys.modules.get(package), "__path__"):
        return f"{text} ({package!r} is a module, no package)"
    place = _search(here, module_name)
    if place is None:
        return text
    folder, file = place
    if folder.is_relative_to(here):
        dotted = ".".join((*folder.relative_to(here).parts, module_name))
        return f"{text}.\nThere is {file.relative_to(here)}: go to {folder.relative_to(here)}, or write {dotted}:{name}"
    return f"{text}.\nThere is {file}: go to {folder}"


def _search(here: Path, module_name: str) -> tuple[Path, Path] | None:
    """A folder near *here* in which the module would be found, and its file."""
    below: list[Path] = [here]
    near: list[Path] = []
    for _ in range(DEEP):
        below = [child for folder in below for child in _folders(folder)]
        near += below
    path = module_name.replace(".", "/")
    for folder in [*near, *here.parents[:DEEP]]:
        for file in (folder / f"{path}.py", folder / path / "__init__.py"):
            with suppress(OSError):
                if file.is_file():
                    return folder, file
    return None


def _folders(folder: Path) -> list[Path]:
    """What could hold somebody's own modules; what may not be looked into could not."""
    found: list[Path] = []
    with suppress(OSError):
        for child in sorted(folder.iterdir()):
            with suppress(OSError):
                if child.name.isidentifier() and child.is_dir() and not (child / "pyvenv.cfg").exists():
                    found.append(child)
    return found


def _folder_hint(missing: str | None, module_name: str, name: str) -> str:
    """Who stands inside a package cannot import it by its name."""
    here = Path.cwd()
    if missing is None or missing.partition(".")[0] != here.name:
        return ""
    return f"{here.name!r} is the folder you are in; go one up and write {here.name}.{module_name}:{name}"


# ── what was found ──


def _what_it_has(module: ModuleType, name: str = "") -> str:
    """The names in a module that would do."""
    first, _, rest = name.partition(".")
    if rest and hasattr(module, "__path__") and importlib.util.find_spec(f"{module.__name__}.{first}"):
        return f"{first!r} is a module in it, so write {module.__name__}.{first}:{rest}"
    fits = [
        f"{key} ({type(value).__name__})"
        for key, value in vars(module).items()
        if isinstance(value, ServeMux | Server) and not key.startswith("_")
    ]
    if not fits:
        return "there is no ServeMux and no Server in it"
    more = f" and {len(fits) - SHOWN} more" if len(fits) > SHOWN else ""
    return f"it has {', '.join(fits[:SHOWN])}{more}"


def _make(factory: Callable[..., object], target: str, module: ModuleType) -> object:
    """What a factory returns."""
    if inspect.iscoroutinefunction(factory) or inspect.isasyncgenfunction(factory):
        refuse(f"{target!r} is an async function; {_NEEDED}: {_what_it_has(module)}")
    try:
        inspect.signature(factory).bind()
    except TypeError:
        refuse(f"{target!r} is a function that needs arguments; {_NEEDED}: {_what_it_has(module)}")
    try:
        made = factory()
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever the user's function raises
        _fail(f"{target!r}, called to make a ServeMux, failed", exc)
    if not isinstance(made, ServeMux | Server):
        refuse(f"{target!r} is a function that returned {type(made).__name__}, not a ServeMux or a Server")
    return made
