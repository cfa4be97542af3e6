"""The examples of web frameworks, on the real frameworks, over HTTP."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from tests.contrib.serving import EXAMPLES, program, served
from tests.server.stage import places


@pytest.mark.parametrize("name", ["fastapi_app", "litestar_app"])
async def test_an_app_with_a_worker_in_it(name: str, redis: Redis, redis_url: str) -> None:
    async with served(f"{name}:app", redis_url) as (http, app):
        sent = await http.post("/welcome/42")
        assert (sent.status_code, sent.json()["state"]) == (202, "pending")
        await app.until("a welcome to user 42")
        found = await http.get("/square/12")
        assert (found.status_code, found.json()) == (200, 144)
        assert (await http.get("/square/no-number")).status_code in {404, 422}
        assert await app.stop() in {0, -15}  # uvicorn raises the signal again
    if name == "fastapi_app":
        opened, closed = app.said.index("the database is opened"), app.said.index("the database is closed")
        assert opened < app.said.index("a welcome to user 42") < closed
    assert "Traceback" not in "\n".join(app.said)
    assert set(await places(redis)) <= {"completed", "tasks"}  # nothing is left undone
    assert await redis.hgetall("asynq:workers") == {}


async def test_a_django_project(redis: Redis, redis_url: str) -> None:
    manage = str(EXAMPLES / "django_app.py")
    async with served("django_app:app", redis_url) as (http, app):
        refused = await http.post("/welcome/0")
        assert (refused.status_code, refused.json()) == (400, {"error": "there is no such user"})
        assert await places(redis) == {}  # it was rolled back
        sent = await http.post("/welcome/42")
        assert (sent.status_code, sent.json()) == (202, {"state": "committed"})
        reminded = await http.post("/reminders/tea")
        assert reminded.json()["state"] == "pending"
        assert len((await places(redis))["pending"]) == 2
        async with program(manage, "aioasynq_worker", "--concurrency", "1", url=redis_url) as worker:
            await worker.until("a welcome to user 42")
            await worker.until("do not forget tea")
            assert await worker.stop() == 0
        assert await app.stop() in {0, -15}
    assert "Traceback" not in "\n".join(app.said + worker.said)
    assert await places(redis) == {}
