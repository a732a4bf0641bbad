"""Checks of the Redis that a dispatcher would use: what it is, what it keeps, how fast it is."""

import importlib.util
import time
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from stepstream.cli.doctor.finding import Finding, bad, fine, warn
from stepstream.masking import masked

__all__ = ["RedisFacts", "check_redis", "judge_redis", "read_facts"]

REDIS_MIN = (7, 0)  # the first with script flags
VALKEY_MIN = (7, 2)  # the first Valkey
SKEW_MAX_S = 1.0  # times that people read side by side
LATENCY_MAX_MS = 10.0  # p99; a task takes some ten round trips
PINGS = 100
_TIMEOUT_S = 2.0


class RedisFacts(Struct, frozen=True, kw_only=True):
    """What a server says of itself."""

    info: Mapping[str, Any]  # INFO
    config: Mapping[str, str]  # CONFIG GET; empty where it is forbidden
    latency_ms: list[float]  # of one PING each
    skew_s: float  # its clock minus ours


def check_redis(url: str, *, needed: bool) -> Iterator[Finding]:
    """Connects and judges.

    Args:
        url: REDIS_URL.
        needed: Whether nothing works without it; False when a dispatcher serves already.
    """
    shown = masked("REDIS_URL", url)
    if importlib.util.find_spec("redis") is None:
        advice = "to have it checked: pip install 'stepstream[dispatcher]'"
        yield warn("redis", f"{shown}, not looked at", advice)
        return
    import redis  # noqa: PLC0415 - not there without the extra

    try:
        facts = read_facts(url)
    except (redis.RedisError, OSError, ValueError) as error:
        words = f"{shown}: {_last_sentence(error)}"
        if needed:
            advice = "start it, set REDIS_URL, or run: stepstream start --embedded-redis"
            yield bad("redis", words, advice)
        else:
            yield warn("redis", words, "the dispatcher that serves uses another; set REDIS_URL too")
        return
    yield from judge_redis(shown, facts)


def read_facts(url: str) -> RedisFacts:
    """Asks a server.

    Raises:
        redis.RedisError: it does not answer, or refuses us.
        ValueError: the URL is none.
    """
    import redis  # noqa: PLC0415 - not there without the extra

    limits = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
    with redis.Redis.from_url(url, decode_responses=True, **limits) as server:
        info: Any = server.info("all")
        try:
            config: Any = server.config_get("maxmemory*", "append*")
        except redis.ResponseError:
            config = {}
        latency_ms = [_ping_ms(server) for _ in range(PINGS)]
        seconds, micros = server.time()
        skew_s = seconds + micros / 1e6 - time.time()
    return RedisFacts(info=info, config=config, latency_ms=latency_ms, skew_s=skew_s)


def judge_redis(shown: str, facts: RedisFacts) -> Iterator[Finding]:
    """Judges what a server says of itself.

    Args:
        shown: Its URL without the password.
    """
    yield _judge_version(shown, facts.info)
    yield _judge_role(facts.info)
    if facts.config:
        yield _judge_durability(facts.config)
        yield _judge_eviction(facts.config)
    else:
        advice = "see to appendonly yes and maxmemory-policy noeviction yourself"
        yield warn("redis config", "CONFIG is forbidden", advice)
    yield _judge_memory(facts.info, facts.config)
    yield _judge_latency(facts.latency_ms)
    yield _judge_clock(facts.skew_s)


def _judge_version(shown: str, info: Mapping[str, Any]) -> Finding:
    kinds = (("valkey_version", "Valkey", VALKEY_MIN), ("redis_version", "Redis", REDIS_MIN))
    field, kind, least = next(one for one in kinds if one[0] in info or one[0] == "redis_version")
    found = str(info.get(field, "0"))
    words = f"{kind} {found} at {shown}"
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdecimal())
    if numbers < least:
        return bad("redis", words, f"install {kind} {'.'.join(map(str, least))} or later")
    return fine("redis", words)


def _judge_role(info: Mapping[str, Any]) -> Finding:
    role = str(info.get("role", "unknown"))
    replicas = info.get("connected_slaves", 0)
    if role != "master":
        return bad("redis role", role, "point REDIS_URL at the primary: a replica takes no writes")
    return fine("redis role", f"primary, {replicas} replicas" if replicas else "primary")


def _judge_durability(config: Mapping[str, str]) -> Finding:
    name, sync = "redis durability", config.get("appendfsync", "?")
    if config.get("appendonly") != "yes":
        advice = "set appendonly yes, else a restart of Redis loses tasks"
        return warn(name, "appendonly no", advice)
    words = f"appendonly yes, appendfsync {sync}"
    if sync == "no":
        return warn(name, words, "set appendfsync everysec or always")
    return fine(name, words)


def _judge_eviction(config: Mapping[str, str]) -> Finding:
    policy = config.get("maxmemory-policy", "?")
    if policy != "noeviction":
        advice = "set maxmemory-policy noeviction: a full Redis would silently drop tasks"
        return bad("redis eviction", f"maxmemory-policy {policy}", advice)
    return fine("redis eviction", "maxmemory-policy noeviction")


def _judge_memory(info: Mapping[str, Any], config: Mapping[str, str]) -> Finding:
    used = int(info.get("used_memory", 0))
    limit = int(config.get("maxmemory", info.get("maxmemory", 0)) or 0)
    words = f"{used / 2**20:.0f} MiB used, " + (
        f"{limit / 2**20:.0f} MiB at most" if limit else "no limit"
    )
    if limit and used > 0.8 * limit:
        return warn("redis memory", words, "raise maxmemory: a full Redis refuses new tasks")
    return fine("redis memory", words)


def _judge_latency(latency_ms: list[float]) -> Finding:
    ordered = sorted(latency_ms)
    middle, worst = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99) - 1]
    words = f"PING p50 {middle:.2f} ms, p99 {worst:.2f} ms"
    if worst > LATENCY_MAX_MS:
        return warn("redis latency", words, "bring Redis nearer, or look at its load and disk")
    return fine("redis latency", words)


def _judge_clock(skew_s: float) -> Finding:
    words = f"{abs(skew_s) * 1000:.0f} ms {'ahead of' if skew_s > 0 else 'behind'} ours"
    if abs(skew_s) > SKEW_MAX_S:
        return warn(
            "redis clock", words, "run NTP on both hosts; all times shown are those of Redis"
        )
    return fine("redis clock", words)


def _ping_ms(server: Any) -> float:
    began_mono = time.monotonic()
    server.ping()
    return (time.monotonic() - began_mono) * 1000


def _last_sentence(error: Exception) -> str:
    """What went wrong, without the address, which stands before it already."""
    words = " ".join(str(error).split()).rstrip(".")
    return words.rpartition(". ")[2] or type(error).__name__
