"""What a failed attempt means: will the next one pass, was anything done, will Redis go on refusing?

redis-py tells some of it by its texts only.
"""

from __future__ import annotations

import re

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    ConnectionError as RedisConnectionError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TimeoutError as RedisTimeoutError,
    TryAgainError,
)

from aioasynq.rdb import sentinel, tls

#: All that a call to Redis may raise; redis-py derives the one of a Cluster from nothing.
FAILURES = (RedisError, RedisClusterException, OSError, TimeoutError)
#: The connection is gone or was never there, or a Cluster is rearranging itself: the next attempt may pass.
PASSING = (
    RedisConnectionError,
    RedisTimeoutError,
    TimeoutError,
    OSError,
    TryAgainError,
    ClusterDownError,
    ClusterError,
    RedisClusterException,
)
#: A slot of a Cluster is elsewhere, or on its way there; nothing was done.
REDIRECTED = (MovedError, AskError, TryAgainError, ClusterDownError)
REFUSED = (AuthenticationError, AuthorizationError, NoPermissionError)
#: A script was refused a command in its midst; what came before that is done.
_TORN_TEXTS = (
    "The user executing the script can't",  # Redis 7.0, of a command within a script
    "ACL failure in script",  # the same since 7.2
)
_NO_CLUSTER_TEXT = "Cluster mode is not enabled"
_REFUSED_TEXTS = (
    "WRONGPASS",
    "NOAUTH",
    "NOPERM",
    "Authentication required",  # of a socket, where redis-py has no type for it
    "invalid username-password",
    "invalid password",
    *_TORN_TEXTS,
    "DB index is out of range",
    "invalid DB index",
    _NO_CLUSTER_TEXT,
    *sentinel.REFUSED_TEXTS,
    *tls.REFUSED_TEXTS,
)
#: Commands that a Redis has and a Sentinel has not.
_MISSING = re.compile("unknown command [`'](EVALSHA|GET|HGETALL|SADD|SMEMBERS|TYPE|ZADD)[`']")
_NEVER_SENT_TEXTS = (
    "max number of clients",
    "connecting",
    "Connect call failed",
    "READONLY",
    "previous master is now a slave",  # redis-py's way to say the same
    "no Sentinel names a master",
    "No master found",
    "is not the master any more",
    "cannot be connected",  # of a Cluster none of whose nodes was reached
    "are not covered",  # slots, by any node of a Cluster
    "TTL exhausted",  # each attempt was answered by MOVED, ASK or TRYAGAIN
)


def is_refusal(exc: BaseException) -> bool:
    """Will Redis, or a Sentinel, or a handshake, go on saying this?"""
    said = str(exc)
    return isinstance(exc, REFUSED) or any(text in said for text in _REFUSED_TEXTS) or bool(_MISSING.search(said))


def is_astray(exc: BaseException, *, is_cluster: bool) -> bool:
    """Does a node of a Cluster send a client on that is none of a Cluster, and so cannot go there?"""
    return isinstance(exc, AskError) and not is_cluster  # a MovedError is one


def reason(exc: BaseException) -> str:
    """What Redis said, or did not say."""
    if isinstance(exc, TimeoutError) and not str(exc):
        return "no answer in time"
    text = (str(exc) or type(exc).__name__).rstrip(".")
    return f"the key is on another node, {exc.host}:{exc.port}" if isinstance(exc, AskError) else text


def advice(exc: BaseException, *, is_cluster: bool) -> str:
    """What to do where the URL is of another kind than what it leads to; or ""."""
    text = str(exc)
    if is_astray(exc, is_cluster=is_cluster):
        return " (this is a node of a Cluster: the URL has to begin with redis-cluster://)"
    if _NO_CLUSTER_TEXT in text:
        return " (this Redis is no Cluster: the URL has to begin with redis://)"
    if _MISSING.search(text):
        return " (if this is a Sentinel, the URL has to be like redis-sentinel://host:port/service)"
    return ""


def is_demoted(exc: BaseException) -> bool:
    """Was it a replica that answered, so that nothing was done?"""
    # Redis 6.2 has it in the midst of a text about the script.
    return isinstance(exc, ReadOnlyError | MasterDownError) or "READONLY You can't write" in str(exc)


def is_torn(exc: BaseException) -> bool:
    """May a script have been ended in its midst?"""
    return any(text in str(exc) for text in _TORN_TEXTS)


def never_sent(exc: BaseException) -> bool:
    """Did the attempt end before anything was written, or did Redis take it and do nothing?"""
    if isinstance(exc, (BusyLoadingError, *REDIRECTED)) or is_demoted(exc):
        return True
    text = str(exc)
    return any(known in text for known in _NEVER_SENT_TEXTS) or "connecting" in text.lower()
