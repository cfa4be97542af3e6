"""Scripts: one Lua file an operation, with the helper files it names in front."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

_LUA = files("aioasynq.rdb") / "lua"
_USES = re.compile(r"^-- uses: (.+)$", re.MULTILINE)


@cache  # most helpers stand in front of many scripts
def _read(name: str) -> str:
    return (_LUA / f"{name}.lua").read_text("utf-8")


class Script:
    """``Script("enqueue")`` is ``lua/enqueue.lua`` behind the helpers of its ``uses`` line.

    Redis is asked for it by its digest; the text is sent only when Redis does not know it.
    """

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str) -> None:
        body = _read(name)
        uses = _USES.search(body)
        helpers = [_read(f"_{helper.strip()}") for helper in uses[1].split(",")] if uses else []
        self.name = name
        self.text = "\n".join([*helpers, body])
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"Script({self.name!r})"
