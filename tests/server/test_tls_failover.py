"""The same over TLS: the servers of a Cluster, of Sentinels, and their clients all show certificates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.asyncio import RedisCluster, Sentinel

from aioasynq import BrokerError, BrokerRefusedError, Client, Inspector, RedisOptions, Server, Task, keys
from aioasynq.devserver import HOST
from tests.server.stage import Stage, patience
from tests.support.cluster import Cluster
from tests.support.sentinel import SERVICE, Sentinels

pytestmark = [
    pytest.mark.one_server("starts its own"),
    pytest.mark.timeout(120),
    pytest.mark.xdist_group("failover"),
    pytest.mark.leaves_connections("redis-py does not wait until one with TLS that it closes is closed"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a client needs: an authority's certificate, and one of its own with its key."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in (HOST, "client.test"):
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
    return {
        "ssl_ca_certs": str(folder / "ca.pem"),
        "ssl_certfile": str(folder / "client.test.pem"),
        "server": str(folder / f"{HOST}.pem"),
    }


@pytest.fixture(scope="module")
def of_servers(secured: dict[str, Any]) -> dict[str, str]:
    """What a server needs; it wants a certificate of whoever connects."""
    pem = secured.pop("server")
    return {"tls-cert-file": pem, "tls-key-file": pem, "tls-ca-cert-file": secured["ssl_ca_certs"]}


@pytest.fixture(scope="module")
def cluster(tls_program: Path, of_servers: dict[str, str]) -> Iterator[Cluster]:
    config = {"cluster-node-timeout": "1000", "cluster-replica-validity-factor": "0"}
    with Cluster(tls_program, replicas=1, config=config, tls=of_servers) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def sentinels(tls_program: Path, of_servers: dict[str, str]) -> Iterator[Sentinels]:
    with Sentinels(tls_program, tls=of_servers) as sentinels:
        yield sentinels


@asynccontextmanager
async def at_work(where: Any, queue: str = "default") -> AsyncGenerator[None]:
    """A server and a client that have done a task, and do others after what happens meanwhile."""
    stage = Stage()
    work = Task("work", queue=queue)
    async with (
        Server(where, stage.mux, lease=3.0, queues=[queue]),
        Client(where, operation_timeout=20.0) as client,
        Inspector(where) as inspector,
    ):
        await client.enqueue(work, task_id="before")
        await stage.ended.until(1)
        yield
        await client.enqueue(work, task_id="after")
        await stage.ended.until(lambda ids: "after" in ids)  # "before" may run again, if its end was not copied yet
        stage.gate.clear()
        await client.enqueue(work, task_id="cancelled")
        await stage.began.until(lambda ids: "cancelled" in ids)
        async with patience():
            while stage.running:  # one that comes before the server has subscribed anew is not heard
                for task_id in ("cancelled", "before"):
                    await inspector.cancel_processing(task_id)
                await asyncio.sleep(0.2)


@pytest.mark.parametrize("ours", [True, False], ids=["a URL", "a client of redis-py"])
async def test_a_cluster(cluster: Cluster, secured: dict[str, Any], ours):
    cluster.flush()
    async with RedisCluster(
        host=HOST, port=cluster.tls_port, ssl=True, **secured, ssl_keyfile=secured["ssl_certfile"]
    ) as given:
        where: Any = RedisOptions(f"rediss-cluster://{HOST}:{cluster.tls_port}", **secured) if ours else given
        async with at_work(where):
            old = cluster.holder(keys.pending("default"))
            old.kill()
            await cluster.until_failed_over(old, keys.pending("default"))
        await asyncio.to_thread(old.start)
        await cluster.until_complete()
        assert await given.ping()


async def test_sentinels(sentinels: Sentinels, secured: dict[str, Any]):
    tls: dict[str, Any] = {"ssl": True, **secured, "ssl_keyfile": secured["ssl_certfile"]}
    places = [(HOST, sentinels.tls_port(sentinel)) for sentinel in sentinels.sentinels]
    found = Sentinel(places, sentinel_kwargs=tls, protocol=2, **tls)
    known = [*found.sentinels]  # two who ask at the same moment may leave one of them out of redis-py's list
    async with found.master_for(SERVICE) as given:
        ours = RedisOptions(f"rediss-sentinel://{sentinels.tls_hosts}/{SERVICE}", **secured)
        async with at_work(ours, "a"), at_work(given, "b"):
            old = sentinels.master
            old.kill()  # one that lives on would take tasks for a while yet, and forget them
            await sentinels.until_failed_over(old)
        await asyncio.to_thread(old.start)
        assert await given.ping()
        for sentinel in known:
            await sentinel.aclose()


@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
async def test_who_shows_no_certificate_or_knows_no_authority_is_told(
    cluster: Cluster, sentinels: Sentinels, secured: dict[str, Any], kind
):
    url = (
        f"rediss-cluster://:secret@{HOST}:{cluster.tls_port}"
        if kind == "cluster"
        else f"rediss-sentinel://:secret@{sentinels.tls_hosts}/{SERVICE}"
    )
    wrong: list[tuple[dict[str, Any], type[BrokerError], str]] = [
        ({}, BrokerRefusedError, "ssl_ca_certs names a file"),
        # what the server says of it may be lost with the connection, which it ends at once
        ({"ssl_ca_certs": secured["ssl_ca_certs"]}, BrokerError, "ssl_certfile and ssl_keyfile|reset by peer"),
        ({**secured, "ssl_server_name": "other.test"}, BrokerRefusedError, "ssl_server_name says which name"),
    ]
    for given, kind_of_error, text in wrong:
        async with Client(RedisOptions(url, **given), operation_timeout=2.0) as client:
            with pytest.raises(kind_of_error, match=text) as caught:
                await client.enqueue(Task("work"))
            assert "secret" not in str(caught.value)
