"""What each error of Redis means for us: one table, keyed on the first word of the reply."""

from __future__ import annotations

from enum import Enum
from typing import Final

from redis import exceptions as redis_errors

__all__ = ["Remedy", "remedy_of", "word_of"]


class Remedy(Enum):
    """What to do about an error."""

    RESEND = "resend"  # the same call, on a fresh connection
    GIVE_UP = "give up"  # the store is unavailable until an operator or a failover acts
    FULL = "full"  # out of memory: nothing was done
    LOAD_SCRIPT = "load script"  # send the body
    CREATE_GROUP = "create group"  # the lane or its group is gone
    REFUSE = "refuse"  # this very call is at fault


# The first words of the shared errors in Redis's server.c; redis-py has a class for some only.
_REMEDY_BY_WORD: Final = {
    "LOADING": Remedy.RESEND,
    "BUSY": Remedy.RESEND,
    "TRYAGAIN": Remedy.RESEND,
    "READONLY": Remedy.RESEND,
    "MASTERDOWN": Remedy.RESEND,
    "CLUSTERDOWN": Remedy.RESEND,
    "UNBLOCKED": Remedy.RESEND,
    "NOREPLICAS": Remedy.GIVE_UP,
    "MISCONF": Remedy.GIVE_UP,
    "NOAUTH": Remedy.GIVE_UP,
    "WRONGPASS": Remedy.GIVE_UP,
    "OOM": Remedy.FULL,
    "NOSCRIPT": Remedy.LOAD_SCRIPT,
    "NOGROUP": Remedy.CREATE_GROUP,
}
# redis-py cuts the first word off the messages of these.
_WORD_BY_CLASS: Final[tuple[tuple[type[redis_errors.RedisError], str], ...]] = (
    (redis_errors.BusyLoadingError, "LOADING"),
    (redis_errors.ReadOnlyError, "READONLY"),
    (redis_errors.OutOfMemoryError, "OOM"),
    (redis_errors.NoScriptError, "NOSCRIPT"),
    (redis_errors.NoPermissionError, "NOPERM"),
    (redis_errors.AuthenticationError, "NOAUTH"),
    (redis_errors.MasterDownError, "MASTERDOWN"),
    (redis_errors.ClusterDownError, "CLUSTERDOWN"),
    (redis_errors.TryAgainError, "TRYAGAIN"),
)


def word_of(error: Exception) -> str:
    """The first word of the server's reply, upper case; empty when there was none."""
    for kind, word in _WORD_BY_CLASS:
        if isinstance(error, kind):
            return word
    return str(error).split(" ", 1)[0] if isinstance(error, redis_errors.ResponseError) else ""


def remedy_of(error: Exception) -> Remedy:
    """Look up what to do about an error of the driver."""
    word = word_of(error)
    return _REMEDY_BY_WORD.get(word, Remedy.REFUSE) if word else Remedy.RESEND
