"""What our connections tell Redis of themselves, as ``CLIENT LIST`` shows it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from aioasynq._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES = {"lib_name", "lib_version", "driver_info"}


@cache
def _ours() -> dict[str, Any]:
    try:
        from redis.driver_info import DriverInfo  # noqa: PLC0415 - older ones have none, and say who they are by themselves
    except ImportError:
        return {}
    return {"driver_info": DriverInfo().add_upstream_driver("aioasynq", __version__)}


def introduction(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a connection that say whose it is, unless *said*, its other options, do.

    Without them redis-py looks its own version up in files, each time it connects.
    """
    return {} if _NAMES & said.keys() else _ours()
