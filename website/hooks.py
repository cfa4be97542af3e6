"""What `mkdocs build` adds to docs/: README, changelog and examples as pages, and the reference.

Pages of docs/ link to files beside them, so that they read well on a code host. Here a link to a file that is a page of
the site leads to that page, and one to any other file is only text.
"""

from __future__ import annotations

import ast
import importlib
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from aioasynq.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Callable

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

#: Files outside of docs/ → the pages they become.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "docs": "index.md",
    "examples": "examples/index.md",
    "examples/with_go": "examples/with_go.md",
    "examples/with_go/README.md": "examples/with_go.md",
} | {f"examples/{path.name}": f"examples/{path.stem}.md" for path in (ROOT / "examples").glob("*.py")}

#: Pages of the reference → their titles, and what stands on them: modules, all of whose public names are shown, or
#: names of their own. Of aioasynq itself come those that are used most first, and errors last.
REFERENCE = {
    "aioasynq": ("aioasynq", ["aioasynq"]),
    "rdb": ("aioasynq.RDB", ["aioasynq.RDB"]),
    "inspector": ("aioasynq.inspector", ["aioasynq.inspector"]),
    "testing": ("aioasynq.testing", ["aioasynq.testing"]),
    "contrib": (
        "aioasynq.contrib",
        ["aioasynq.contrib.starlette", "aioasynq.contrib.litestar", "aioasynq.contrib.django"],
    ),
    "others": (
        "Other modules",
        [
            "aioasynq.codecs.Codec",
            "aioasynq.codecs.Json",
            "aioasynq.codecs.Msgpack",
            "aioasynq.codecs.Encrypted",
            "aioasynq.devserver",
            "aioasynq.logs.JsonFormatter",
            "aioasynq.logs.TaskFilter",
            "aioasynq.metrics.QueueCollector",
            "aioasynq.observer.Observer",
            "aioasynq.observer.Ended",
            "aioasynq.otel.OpenTelemetry",
            "aioasynq.rate.Semaphore",
        ],
    ),
}

FIRST = [
    *("Client", "ServeMux", "Server", "Config", "Task", "TaskInfo", "TaskState", "TaskType", "Context", "current_task"),
    *("current_context", "Progress", "Exponential", "Scheduler", "PeriodicTaskManager", "PeriodicTaskConfig"),
]

#: Names whose docstring tells of the arguments of an ``__init__`` that stands in a base class.
INHERITS_INIT = {"aioasynq.RDB"}

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):<code>(~?)([^<]*)</code>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of something else."""
    made = {
        **{page: (ROOT / name).read_text() for name, page in PAGES.items() if name.endswith(".md")},
        **{f"examples/{path.stem}.md": _example(path) for path in (ROOT / "examples").glob("*.py")},
        **{f"reference/{name}.md": _reference(*what) for name, what in REFERENCE.items()},
        "examples/index.md": _examples(),
        "reference/cli.md": _commands(),
        "style.css": (ROOT / "website" / "style.css").read_text(),
        "mermaid.js": (ROOT / ".venv-docs" / "package" / "dist" / "mermaid.min.js").read_text(),
    }
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Let links lead to pages of the site."""
    source = next((name for name, made in PAGES.items() if made == page.file.src_uri), f"docs/{page.file.src_uri}")
    if page.file.src_uri.startswith(("reference/", "examples/index")):
        source = f"docs/{page.file.src_uri}"  # made here, with links as they should be

    def lead(found: re.Match[str]) -> str:
        picture, text, target, anchor = found.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        inside = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if inside is None:
            if not (ROOT / path).exists():
                raise PluginError(f"{source}: {target} leads nowhere")
            return text
        return f"{picture}[{text}]({posixpath.relpath(inside, posixpath.dirname(page.file.src_uri))}{anchor or ''})"

    return _outside_of_code(markdown, lambda text: _LINK.sub(lead, _bars(text)))


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Docstrings are as for Sphinx: ``:func:`x```, ``:class:`~a.b.C``` for the last part, ``::`` before code."""
    if not page.file.src_uri.startswith("reference/"):
        return html
    html = html.replace("::</p>", ":</p>")
    return _ROLE.sub(lambda role: f"<code>{role[2].rpartition('.')[2] if role[1] else role[2]}</code>", html)


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Pages with diagrams load what draws them."""
    if 'class="mermaid"' not in output:
        return output
    script = posixpath.relpath("mermaid.js", posixpath.dirname(page.file.src_uri))
    return output.replace("</head>", f'<script src="{script}"></script></head>', 1)


def _outside_of_code(markdown: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])


def _bars(text: str) -> str:
    r"""A code host needs ``\|`` for a bar in code within a table; here it would show the backslash."""
    return re.sub(r"`[^`\n]*`", lambda code: code[0].replace(r"\|", "|"), text)


# --- examples ---


def _example(path: Path) -> str:
    return f"# {path.name}\n\n```python\n{path.read_text()}```\n"


def _examples() -> str:
    lines = ["# Examples", "", "Programs to run, in the folder `examples/`. Each of them runs in the tests.", ""]
    lines += ["| | |", "|---|---|"]
    for path in sorted((ROOT / "examples").glob("*.py")):
        said = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0].replace("\n", " ")
        lines.append(f"| [{path.name}]({path.stem}.md) | {said.replace('|', '&#124;')} |")
    lines.append("| [with_go](with_go.md) | Go and Python on the same queues. |")
    return "\n".join(lines)


# --- reference ---


def _reference(title: str, what: list[str]) -> str:
    lines = [f"# {title}", ""]
    for name in what:
        try:
            public = importlib.import_module(name).__all__
        except ImportError:
            public = None  # no module, a name of one
        except AttributeError as exc:
            raise PluginError(f"{name} has no __all__") from exc
        if public is None:
            lines += _shown(name, below=False)
            continue
        below = len(what) > 1
        if below:
            lines += [f"## {name}", ""]
        errors: list[str] = []
        if name == "aioasynq":
            errors = [each for each in public if _is_error(each)]
            public = [*FIRST, *(each for each in public if each not in {*FIRST, *errors, "RDB", "__version__"})]
        for each in public:
            lines += _shown(f"{name}.{each}", below=below)
        if errors:
            lines += ["## Errors", "", "[Errors](../errors.md) says when each is met, and what to do.", ""]
            for each in errors:
                lines += _shown(f"aioasynq.{each}", below=True)
    return "\n".join(lines)


def _shown(name: str, *, below: bool) -> list[str]:
    lines = [f"::: {name}", "    options:", f"      heading_level: {3 if below else 2}"]
    if name in INHERITS_INIT:
        lines.append("      docstring_options: { warnings: false }")
    return [*lines, ""]


def _is_error(name: str) -> bool:
    thing = getattr(importlib.import_module("aioasynq"), name)
    return isinstance(thing, type) and issubclass(thing, BaseException)


# --- the command line ---


def _commands() -> str:
    lines = [
        "# Commands, all options",
        "",
        "Made from the program itself: what `--help` of each command says. [The command line](../cli.md) tells more.",
        "",
    ]
    _command(typer.main.get_command(app), "aioasynq", lines)
    return "\n".join(lines)


def _command(command: Any, path: str, lines: list[str]) -> None:
    context = command.context_class(command, info_name=path)
    lines += [f"## {path}", "", " ".join((command.help or "").split()), ""]
    lines += ["```text", f"{path} {' '.join(command.collect_usage_pieces(context))}", "```", ""]
    rows = [record for param in command.get_params(context) if (record := _param(param, context))]
    if rows:
        lines += ["| | |", "|---|---|"]
        lines += [f"| `{names}` | {' '.join(said.split()).replace('<', '&lt;')} |" for names, said in rows]
        lines.append("")
    for name, sub in sorted(getattr(command, "commands", {}).items()):
        if not sub.hidden:
            _command(sub, f"{path} {name}", lines)


def _param(param: Any, context: Any) -> tuple[str, str] | None:
    record = param.get_help_record(context)
    if record is None and param.param_type_name == "argument":
        return param.make_metavar(context), getattr(param, "help", None) or ""
    return None if record is None or record[0].startswith(("--help", "--install-", "--show-comp")) else record
