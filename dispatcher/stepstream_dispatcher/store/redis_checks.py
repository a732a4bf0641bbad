"""What a server must be before tasks are trusted to it."""

from __future__ import annotations

import re
from typing import Final

from redis import exceptions as redis_errors

from stepstream_dispatcher.store.port import Durability, StoreRefused
from stepstream_dispatcher.store.redis_errors import Remedy, remedy_of
from stepstream_dispatcher.store.redis_link import Link

__all__ = [
    "check_server",
    "check_version",
    "read_config",
    "read_durability",
    "read_faults",
    "read_mirrored",
]

REDIS_MIN: Final = (7, 0)  # the first with script flags
VALKEY_MIN: Final = (7, 2)  # the first Valkey


async def check_server(link: Link, *, allow_eviction: bool) -> list[str]:
    """Refuse a server that is too old or that may evict keys.

    Returns:
        Warnings: what could not be checked, in words.

    Raises:
        StoreRefused: The message says what to change.
    """
    (info,) = await link.ask(("INFO", "server"))
    check_version(info.decode())
    warnings = []
    policy = (await read_config(link, "maxmemory-policy")).get("maxmemory-policy")
    if policy is None:
        warnings.append("CONFIG is forbidden: make sure that maxmemory-policy is noeviction")
    elif policy != "noeviction" and not allow_eviction:
        raise StoreRefused(_evicting(policy))
    elif policy != "noeviction":
        warnings.append(f"maxmemory-policy is {policy}: a full redis silently drops tasks")
    return warnings


async def read_faults(link: Link) -> list[str]:
    """Read what has become wrong with a server that was checked before, in words."""
    policy = (await read_config(link, "maxmemory-policy")).get("maxmemory-policy", "noeviction")
    return [] if policy == "noeviction" else [_evicting(policy)]


async def read_durability(link: Link) -> Durability:
    """Read what the append-only file promises; VOLATILE if nobody may know."""
    config = await read_config(link, "appendonly", "appendfsync")
    if config.get("appendonly") != "yes" or config.get("appendfsync") == "no":
        return "VOLATILE"
    return "AOF_SYNC" if config.get("appendfsync") == "always" else "AOF_1S"


async def read_config(link: Link, *names: str) -> dict[str, str]:
    """Read settings of the server; empty where CONFIG is forbidden."""
    try:
        (reply,) = await link.ask(("CONFIG", "GET", *names))
    except redis_errors.ResponseError as error:
        if remedy_of(error) is Remedy.REFUSE:  # by the ACL, or the command is renamed
            return {}
        raise
    texts = [text.decode() for text in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


async def read_mirrored(link: Link) -> bool:
    """Read whether messages reach subscribers of other servers too: replicas, or a cluster's."""
    replication, cluster = await link.ask(("INFO", "replication"), ("INFO", "cluster"))
    alone = b"connected_slaves:0" in replication and b"role:master" in replication
    return not alone or b"cluster_enabled:1" in cluster


def check_version(info: str) -> None:
    """Judge the text of INFO server.

    Raises:
        StoreRefused: The server is older than what the scripts need.
    """
    fields = dict(re.findall(r"^(\w+):(.*?)\r?$", info, re.MULTILINE))
    for field, name, least in (
        ("valkey_version", "valkey", VALKEY_MIN),
        ("redis_version", "redis", REDIS_MIN),
    ):
        if field in fields:
            version = tuple(int(part) for part in fields[field].split(".")[:2])
            if version < least:
                floor = ".".join(map(str, least))
                raise StoreRefused(f"{name} {fields[field]} is too old; {floor} is the oldest")
            return


def _evicting(policy: str) -> str:
    return (
        f"redis has maxmemory-policy {policy} and would silently drop tasks when it is full; "
        "set it to noeviction"
    )
