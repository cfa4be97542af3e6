"""``MODULE:NAME``: from what was typed to what is meant, a ServeMux or a Scheduler, say; or to words that help."""

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
from typing import NamedTuple, NoReturn, cast

import anyio
import typer

from aioasynq.cli.exits import WRONG_USE, refuse
from aioasynq.mux import ServeMux
from aioasynq.scheduler import PeriodicTaskManager, Scheduler
from aioasynq.server import Server

SHOWN = 5  #: names that a hint lists
#: Where frames are that lead to the user's own.
_BEFORE = (
    f"{Path(__file__).parents[1]}{os.sep}",
    *(f"{Path(module.__file__).parent}{os.sep}" for module in (anyio, importlib) if module.__file__ is not None),
    "<frozen importlib",
)
DEEP = 2  #: levels of folders below and above this one that are searched for a module


class Wanted(NamedTuple):
    """What a command runs."""

    kinds: tuple[type, ...]
    command: str
    usual: str  #: name of one

    @property
    def needed(self) -> str:
        """In words."""
        return f"{', '.join(f'a {kind.__name__}' for kind in self.kinds)}, or a function that makes one, is needed"


HANDLERS = Wanted((ServeMux, Server), "worker", "mux")
SCHEDULERS = Wanted((Scheduler, PeriodicTaskManager), "scheduler", "scheduler")


def load(target: str) -> ServeMux | Server:
    """The handlers that *target* names."""
    found = cast("ServeMux | Server", _load(target, HANDLERS))
    mux = found.mux if isinstance(found, Server) else found
    if not mux.patterns:
        name = split(target)[1]
        refuse(f"{target} has no handler; register one with @{name}.task(...) or .handler(...)")
    return found


def load_scheduler(target: str) -> Scheduler | PeriodicTaskManager:
    """What enqueues periodic tasks, as *target* names it."""
    found = cast("Scheduler | PeriodicTaskManager", _load(target, SCHEDULERS))
    if isinstance(found, Scheduler) and not found._entries:  # noqa: SLF001 - nobody else asks
        name = split(target)[1]
        refuse(f"{target} has no entry; register one with {name}.register(spec, task), where the module is imported")
    return found


def _load(target: str, wanted: Wanted) -> object:
    """Import what *target* names: from the working directory first; the name may have dots, or be a factory's."""
    module_name, name = split(target, wanted)
    module = _import(module_name, name, target)
    found: object = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            refuse(f"module {module_name!r} has no {name!r}; {_what_it_has(module, wanted, name)}")
    if isinstance(found, FunctionType):
        found = _make(found, target, module, wanted)
    for other in (HANDLERS, SCHEDULERS):
        if other is not wanted and isinstance(found, other.kinds):
            refuse(f"{target!r} is a {type(found).__name__}, which aioasynq {other.command} {target} runs")
    if not isinstance(found, wanted.kinds):
        refuse(f"{target!r} is of type {type(found).__name__}; {wanted.needed}: {_what_it_has(module, wanted)}")
    return found


def split(target: str, wanted: Wanted = HANDLERS) -> tuple[str, str]:
    """The module and the name in it."""
    head, colon, name = target.partition(":")
    name = name.removesuffix("()")
    if head.endswith(".py") or "/" in head or "\\" in head:
        refuse(_not_a_path(target, head, name or wanted.usual, is_named=bool(name)))
    if not (colon and head and name) or head.startswith(".") or ":" in name:
        front, _, last = head.rpartition(".")
        meant = f"{front}:{last} or {head}:{wanted.usual}" if front else f"{head}:{wanted.usual}"
        refuse(f"{target!r} is no MODULE:NAME, as in {f'myapp.tasks:{wanted.usual}' if colon or not head else meant}")
    return head, name


def _not_a_path(target: str, head: str, name: str, *, is_named: bool) -> str:
    path = PurePath(head.replace("\\", "/"))
    if not is_named and path.suffix != ".py":
        path, name = path.parent, path.name
    module = path.with_suffix("") if path.suffix == ".py" else path
    if path.is_absolute() or ".." in path.parts:
        return f"{target!r} is a path; go to {path.parent} and write {module.name}:{name}"
    return f"{target!r} is a path; write {'.'.join(module.parts)}:{name}"


# ── importing ──


def _import(module_name: str, name: str, target: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - an entry of sys.path is a string
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        # Only what was asked for: that some other module is missing is shown with the place that imports it.
        if exc.name is not None and f"{module_name}.".startswith(f"{exc.name}."):
            refuse(_not_found(exc.name, module_name, name, target))
        fail(f"module {module_name!r} cannot be imported", exc, _folder_hint(exc.name, module_name, name))
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever the user's module raises
        fail(f"module {module_name!r} cannot be imported", exc)


def fail(what: str, exc: BaseException, hint: str = "", code: int = WRONG_USE) -> NoReturn:
    """Show the user's own frames, and end."""
    frames = exc.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_BEFORE):
        frames = frames.tb_next
    typer.echo(f"aioasynq: {what}:", err=True)
    traceback.print_exception(exc.with_traceback(frames))
    if hint:
        refuse(hint)
    raise typer.Exit(code) from None


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


def _what_it_has(module: ModuleType, wanted: Wanted, name: str = "") -> str:
    """The names in a module that would do."""
    first, _, rest = name.partition(".")
    if rest and hasattr(module, "__path__") and importlib.util.find_spec(f"{module.__name__}.{first}"):
        return f"{first!r} is a module in it, so write {module.__name__}.{first}:{rest}"
    fits = [
        f"{key} ({type(value).__name__})"
        for key, value in vars(module).items()
        if isinstance(value, wanted.kinds) and not key.startswith("_")
    ]
    if not fits:
        return f"there is {' and '.join(f'no {kind.__name__}' for kind in wanted.kinds)} in it"
    more = f" and {len(fits) - SHOWN} more" if len(fits) > SHOWN else ""
    return f"it has {', '.join(fits[:SHOWN])}{more}"


def _make(factory: Callable[..., object], target: str, module: ModuleType, wanted: Wanted) -> object:
    """What a factory returns."""
    if inspect.iscoroutinefunction(factory) or inspect.isasyncgenfunction(factory):
        refuse(f"{target!r} is an async function; {wanted.needed}: {_what_it_has(module, wanted)}")
    try:
        inspect.signature(factory).bind()
    except TypeError:
        refuse(f"{target!r} is a function that needs arguments; {wanted.needed}: {_what_it_has(module, wanted)}")
    try:
        made = factory()
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever the user's function raises
        fail(f"{target!r}, called to make a {wanted.kinds[0].__name__}, failed", exc)
    if not isinstance(made, (*HANDLERS.kinds, *SCHEDULERS.kinds)):
        kinds = " or ".join(f"a {kind.__name__}" for kind in wanted.kinds)
        refuse(f"{target!r} is a function that returned {type(made).__name__}, not {kinds}")
    return made
