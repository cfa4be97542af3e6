"""The table of users in docs/security.md, as rules for ACL SETUSER."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
PASSWORD = "least"

_CODE = re.compile(r"`([^`]*)`")


def users() -> dict[str, list[str]]:
    """For each user of the table what its columns name, in order: keys, channels, commands."""
    section = PAGE.read_text().split("\n## Users of Redis\n", 1)[1].split("\n## ", 1)[0]
    found: dict[str, list[str]] = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            name, *rules = (code.replace("\\|", "|") for code in _CODE.findall(line))
            found[name] = [word for rule in rules for word in rule.split()]
    return found


USERS = users()


def commands(user: str) -> list[str]:
    """The commands that a user may run."""
    return [rule.removeprefix("+") for rule in USERS[user] if rule.startswith("+")]


def set_user(name: str, rules: list[str]) -> tuple[str, ...]:
    """The command that makes Redis know a user with these rules and no others."""
    return ("ACL", "SETUSER", name, "reset", "on", f">{PASSWORD}", "resetchannels", *rules)
