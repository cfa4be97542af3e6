"""TLS: the options of a URL that are about it, checked before anybody connects.

A context is made once, from files that are read at once: what is wrong with them is told with the option's name.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import redis.asyncio as aioredis
from redis.asyncio.connection import AbstractConnection

#: Options of a URL, and of :class:`~aioasynq.rdb.url.RedisOptions`; named as redis-py's, which has no server name.
OPTIONS = (
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_server_name",
    "ssl_cert_reqs",
    "ssl_check_hostname",
)
_VERIFY = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
#: What a failed handshake says when it would fail again: wrong certificates, on either side.
REFUSED_TEXTS = (
    "CERTIFICATE_VERIFY_FAILED",
    "CERTIFICATE_REQUIRED",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_UNKNOWN_CA",
    "ALERT_HANDSHAKE_FAILURE",
)


@dataclass(frozen=True, slots=True)
class TLS:
    """How to speak TLS."""

    context: ssl.SSLContext
    server_name: str | None = None  #: that the certificate has to be for; None: the host that is connected to


def make_tls(options: Mapping[str, Any]) -> TLS:
    """Read certificates and keys.

    Args:
        options: those of :data:`OPTIONS` that were given.

    Raises:
        ValueError: naming the option, its value and what would be right.
    """
    context = ssl.create_default_context(**_authorities(options.get("ssl_ca_certs")))
    verify = str(options.get("ssl_cert_reqs", "required")).lower()
    if verify not in _VERIFY:
        raise ValueError(f"ssl_cert_reqs must be required, optional or none, got {options['ssl_cert_reqs']!r}")
    check_hostname = _is_true("ssl_check_hostname", options.get("ssl_check_hostname", True))
    context.check_hostname = check_hostname and verify != "none"
    context.verify_mode = _VERIFY[verify]
    _load_certificate(context, options)
    name = options.get("ssl_server_name")
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise ValueError(f"ssl_server_name must be the name in the server's certificate, got {name!r}")
    return TLS(context, name)


def _authorities(path: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Where the certificates of trusted authorities are; nothing: the system's."""
    if path is None:
        return {}
    wanted = f"ssl_ca_certs must be a file with certificates of authorities (PEM), or a folder of such, got {path!r}"
    kind = "capath" if Path(path).is_dir() else "cafile"
    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        trial.load_verify_locations(**{kind: os.fspath(path)})
    except (OSError, ValueError, TypeError) as exc:  # an SSLError is an OSError
        raise ValueError(f"{wanted}: {_reason(exc)}") from None
    if kind == "cafile" and not trial.cert_store_stats()["x509_ca"]:
        raise ValueError(f"{wanted}: none of its certificates is that of an authority")
    return {kind: os.fspath(path)}


def _load_certificate(context: ssl.SSLContext, options: Mapping[str, Any]) -> None:
    certificate, key = options.get("ssl_certfile"), options.get("ssl_keyfile")
    password = options.get("ssl_password")
    if certificate is None:
        for name in ("ssl_keyfile", "ssl_password"):
            if options.get(name) is not None:
                raise ValueError(f"{name} goes with ssl_certfile, which names the certificate that is shown to Redis")
        return
    for name, path in (("ssl_certfile", certificate), ("ssl_keyfile", key)):
        try:
            if path is not None:
                with Path(path).open("rb"):
                    pass
        except (OSError, ValueError, TypeError) as exc:
            raise ValueError(f"{name} must be a file that can be read (PEM), got {path!r}: {_reason(exc)}") from None
    asked = False

    def tell_password() -> str:
        nonlocal asked
        asked = True
        return str(password or "")

    where = f"ssl_certfile {certificate!r}" + ("" if key is None else f" and ssl_keyfile {key!r}")
    try:
        context.load_cert_chain(certificate, key, tell_password)
    except (OSError, ValueError) as exc:
        if asked:
            why = "is none" if password is None else "is not that of the key"
            raise ValueError(f"ssl_password {why}, which is encrypted: {where}") from None
        raise ValueError(f"{where} must be a certificate and its key (PEM): {_reason(exc)}") from None


def _reason(exc: Exception) -> str:
    """What was wrong, without a path, which may be part of a URL that is shown with its password masked."""
    if isinstance(exc, ssl.SSLError):
        known = {
            "KEY_VALUES_MISMATCH": "the key is not that of the certificate",
            "NO_START_LINE": "there is none in it",
            "NO_CERTIFICATE_OR_CRL_FOUND": "there is none in it",
        }
        reason = exc.reason or ""
        if not reason and "PEM lib" in str(exc):
            return "there is no certificate or no key in it"
        return known.get(reason, reason.lower().replace("_", " ") or str(exc))
    return exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)


def _is_true(name: str, value: object) -> bool:
    text = str(value).lower()
    if text not in _YES + _NO:
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return text in _YES


class TLSConnection(aioredis.SSLConnection):
    """A connection with a context of our own, where redis-py would make one for each connection."""

    def __init__(self, *, tls: TLS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._tls = tls

    def _connection_arguments(self) -> Mapping[str, Any]:
        # Not that of SSLConnection, which would read the system's certificates each time.
        plain = cast("Mapping[str, Any]", super(aioredis.SSLConnection, self)._connection_arguments())
        named = {} if self._tls.server_name is None else {"server_hostname": self._tls.server_name}
        return {**plain, "ssl": self._tls.context, **named}


def hint(why: str) -> str:
    """What to do about a handshake that failed; or ""."""
    if "Hostname mismatch" in why or "IP address mismatch" in why:
        return " (ssl_server_name says which name the certificate has to be for)"
    if "has expired" in why or "not yet valid" in why:
        return " (it ran out, or a clock is wrong)"
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return " (ssl_ca_certs names a file with the certificate of its authority)"
    if "CERTIFICATE_REQUIRED" in why or "ALERT_HANDSHAKE_FAILURE" in why:
        return " (Redis wants a certificate: ssl_certfile and ssl_keyfile)"
    if any(text in why for text in REFUSED_TEXTS):
        return " (Redis does not take the certificate of ssl_certfile)"
    return ""


def is_tls(connection_class: type[AbstractConnection]) -> bool:
    """Whether connections of this class speak TLS."""
    return issubclass(connection_class, aioredis.SSLConnection)
