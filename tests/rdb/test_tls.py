"""TLS: certificates of one's own, on both sides, and what is said of those that are wrong."""

from __future__ import annotations

import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization as s

from aioasynq import BrokerError, BrokerRefusedError, Client, RedisOptions, Task
from aioasynq.devserver import HOST, DevServer, free_port
from aioasynq.rdb.rdb import RDB
from tests.support.build import QUEUE, message


@dataclass
class Files:
    """Certificates and keys, by what is in them."""

    folder: Path
    ca: str
    other_ca: str
    server: str  #: certificate and key for 127.0.0.1 and redis.test
    certificate: str
    key: str
    locked_key: str  #: with the password "secret"
    other_key: str
    nothing: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("certificates")
    authority, other = trustme.CA(), trustme.CA()

    def write(name: str, *blobs: trustme.Blob) -> str:
        (folder / name).write_bytes(b"".join(blob.bytes() for blob in blobs))
        return str(folder / name)

    server = authority.issue_cert("redis.test", HOST)
    client = authority.issue_cert("client.test")
    key = s.load_pem_private_key(client.private_key_pem.bytes(), None)
    locked = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret"))
    return Files(
        folder=folder,
        ca=write("ca.pem", authority.cert_pem),
        other_ca=write("other_ca.pem", other.cert_pem),
        server=write("server.pem", server.private_key_pem, *server.cert_chain_pems),
        certificate=write("client.pem", *client.cert_chain_pems),
        key=write("client.key", client.private_key_pem),
        locked_key=write("locked.key", trustme.Blob(locked)),
        other_key=write("other.key", other.issue_cert("x.test").private_key_pem),
        nothing=write("nothing.pem"),
    )


@pytest.fixture(scope="module")
def tls_server(tls_program: Path, files: Files) -> Iterator[Callable[[str], int]]:
    """``tls_server("yes")``: the TLS port of a server that wants a certificate from its clients; "no": of another."""
    started: dict[str, DevServer] = {}

    def start(clients: str) -> int:
        if clients not in started:
            config = {
                "tls-port": str(free_port()),
                "tls-cert-file": files.server,
                "tls-key-file": files.server,
                "tls-ca-cert-file": files.ca,
                "tls-auth-clients": clients,
            }
            started[clients] = DevServer(tls_program, config=config)
            started[clients].start()
        return int(str(started[clients]._config["tls-port"]))

    yield start
    for server in started.values():
        server.close()


async def test_a_certificate_that_has_run_out(tls_program, files, tmp_path):
    """It is not the authority that is missing, so nothing is said of that."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    old = authority.issue_cert(HOST, not_after=datetime(2020, 1, 1, tzinfo=UTC))
    old.private_key_and_cert_chain_pem.write_to_path(tmp_path / "old.pem")
    pem, port = str(tmp_path / "old.pem"), free_port()
    settings = {"tls-port": str(port), "tls-cert-file": pem, "tls-key-file": pem, "tls-auth-clients": "no"}
    with DevServer(tls_program, config=settings | {"tls-ca-cert-file": str(tmp_path / "ca.pem")}):
        async with RDB(RedisOptions(f"rediss://{HOST}:{port}", ssl_ca_certs=tmp_path / "ca.pem")) as rdb:
            with pytest.raises(
                BrokerRefusedError, match=r"certificate has expired.* \(it ran out, or a clock is"
            ) as caught:
                await rdb.ping()
            assert "ssl_ca_certs" not in str(caught.value)


async def test_an_authority_of_ones_own(tls_server, files):
    port = tls_server("no")
    for redis in (
        f"rediss://{HOST}:{port}?ssl_ca_certs={files.ca}",
        RedisOptions(f"rediss://{HOST}:{port}", ssl_ca_certs=Path(files.ca)),
        f"rediss://{HOST}:{port}?ssl_ca_certs={files.ca}&ssl_server_name=redis.test",
        f"rediss://localhost:{port}?ssl_ca_certs={files.ca}&ssl_server_name=redis.test",
        f"rediss://localhost:{port}?ssl_ca_certs={files.ca}&ssl_check_hostname=false",
        f"rediss://localhost:{port}?ssl_cert_reqs=none",
        f"rediss://{HOST}:{port}?ssl_ca_certs={_hashed(files)}",
    ):
        async with RDB(redis) as rdb:
            assert rdb.address == f"rediss://{HOST if HOST in rdb.address else 'localhost'}:{port}/0"
            assert await rdb.enqueue([message("a")]) == [None]
            [leased] = (await rdb.dequeue(QUEUE, owner="x")).tasks
            async with rdb.twin() as twin:
                assert await twin.done([leased]) == [True]


def _hashed(files: Files) -> Path:
    """A folder of authorities, as OpenSSL looks for them: by a hash of their names."""
    folder = files.folder / "authorities"
    if not folder.exists():
        folder.mkdir()
        said = subprocess.run(
            ["openssl", "x509", "-hash", "-noout", "-in", files.ca], check=True, capture_output=True, text=True
        )
        (folder / f"{said.stdout.strip()}.0").write_bytes(Path(files.ca).read_bytes())
    return folder


@pytest.mark.parametrize("locked", [False, True], ids=["a key", "an encrypted key"])
async def test_a_certificate_of_the_client(tls_server, files, locked):
    options: dict[str, Any] = {"ssl_ca_certs": files.ca, "ssl_certfile": files.certificate, "ssl_keyfile": files.key}
    if locked:
        options |= {"ssl_keyfile": files.locked_key, "ssl_password": "secret"}
    async with Client(RedisOptions(f"rediss://{HOST}:{tls_server('yes')}", **options)) as client:
        assert (await client.enqueue(Task("a"))).type == "a"


REFUSED = {
    "an authority that is unknown": ("no", {}, "certificate verify failed.*ssl_ca_certs names a file"),
    "another authority": ("no", {"ssl_ca_certs": "other_ca"}, "certificate verify failed.*ssl_ca_certs names a file"),
    "another name": (
        "no",
        {"ssl_ca_certs": "ca", "ssl_server_name": "cache.test"},
        "certificate is not valid for 'cache.test'.*ssl_server_name says which name",
    ),
    "no certificate": ("yes", {"ssl_ca_certs": "ca"}, "ssl_certfile and ssl_keyfile|closed|lost|reset"),
}


@pytest.mark.parametrize(("clients", "given", "text"), REFUSED.values(), ids=REFUSED)
async def test_a_handshake_that_fails(tls_server, files, clients, given, text):
    """At once, where it would fail again and the handshake says so."""
    port = tls_server(clients)
    options = {name: getattr(files, value, value) for name, value in given.items()}
    began = time.monotonic()
    async with RDB(RedisOptions(f"rediss://:secret@{HOST}:{port}", **options), operation_timeout=2.0) as rdb:
        for operation in (rdb.ping(), rdb.enqueue([message("a")])):
            with pytest.raises(BrokerError, match=rf"(?s)failed on rediss://{HOST}:{port}/0: .*({text})") as caught:
                await operation
            assert "secret" not in str(caught.value)
            assert not caught.value.maybe_done
            if clients == "no":
                assert isinstance(caught.value, BrokerRefusedError)
                assert time.monotonic() - began < 1.5


WRONG = {
    "no such authority": ({"ssl_ca_certs": "/no/ca.pem"}, r"ssl_ca_certs must be a file .* got '/no/ca.pem': No such"),
    "an empty authority": (
        {"ssl_ca_certs": "nothing"},
        r"ssl_ca_certs must be a file with certificates .*: there is none",
    ),
    "a key for an authority": (
        {"ssl_ca_certs": "key"},
        r"ssl_ca_certs must be a file with certificates .*: there is none",
    ),
    "no such certificate": ({"ssl_certfile": "/no/c.pem"}, r"ssl_certfile must be a file .* got '/no/c.pem': No such"),
    "no such key": (
        {"ssl_certfile": "certificate", "ssl_keyfile": "/no/k"},
        r"ssl_keyfile must be a file .* '/no/k': No",
    ),
    "a certificate without its key": (
        {"ssl_certfile": "certificate"},
        "ssl_certfile .* must be a certificate and its key",
    ),
    "the key of another": (
        {"ssl_certfile": "certificate", "ssl_keyfile": "other_key"},
        "ssl_certfile .* and ssl_keyfile .*other.key.*: the key is not that of the certificate",
    ),
    "an encrypted key": (
        {"ssl_certfile": "certificate", "ssl_keyfile": "locked_key"},
        "ssl_password is none.*encrypted",
    ),
    "the password of another": (
        {"ssl_certfile": "certificate", "ssl_keyfile": "locked_key", "ssl_password": "hidden"},
        "ssl_password is not that of the key, which is encrypted",
    ),
    "a key alone": ({"ssl_keyfile": "key"}, "ssl_keyfile goes with ssl_certfile"),
    "a password alone": ({"ssl_password": "hidden"}, "ssl_password goes with ssl_certfile"),
    "a check that is none": (
        {"ssl_cert_reqs": "maybe"},
        "ssl_cert_reqs must be required, optional or none, got 'maybe'",
    ),
    "no yes or no": ({"ssl_check_hostname": "maybe"}, "ssl_check_hostname must be true or false, got 'maybe'"),
    "an empty name": (
        {"ssl_server_name": " "},
        "ssl_server_name must be the name in the server's certificate, got ' '",
    ),
}


@pytest.mark.parametrize(("given", "text"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize(
    "scheme", ["rediss://:hidden@h", "rediss-sentinel://:hidden@h/s", "rediss-cluster://:hidden@h"]
)
def test_certificates_that_are_wrong(files, scheme, given, text):
    options = {name: getattr(files, value, value) for name, value in given.items()}
    query = "&".join(f"{name}={value}" for name, value in options.items())
    for redis in (RedisOptions(scheme, **options), f"{scheme}?{query}"):
        with pytest.raises(ValueError, match=text) as caught:
            RDB(redis)
        assert "hidden" not in "".join(traceback.format_exception(caught.value))
