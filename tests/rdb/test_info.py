"""What Redis says about itself."""

from __future__ import annotations

import pytest

from aioasynq.rdb.rdb import RDB


@pytest.mark.rows(62)
async def test_info_is_a_mapping(rdb: RDB) -> None:
    info = await rdb.info()
    assert int(info["redis_version"].split(".")[0]) >= 6
    assert info["connected_clients"].isdigit()
    assert info["maxmemory_policy"] == "noeviction"
    assert all(isinstance(name, str) and isinstance(value, str) for name, value in info.items())
