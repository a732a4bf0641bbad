"""The Lua scripts: their bodies, how they are declared, and EVALSHA with EVAL as the way back."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

from redis import exceptions as redis_errors

from stepstream_dispatcher.store.redis_errors import Remedy, remedy_of
from stepstream_dispatcher.store.redis_link import Command, Link

__all__ = [
    "DISCARD",
    "DROP_TIMERS",
    "FORGET",
    "IMPORT",
    "LEAVE",
    "RECOUNT",
    "REPAIR",
    "SETTLE",
    "SUBMIT",
    "SURVEY",
    "TALLY",
    "TRIM",
    "Script",
    "keep",
]


class Script:
    """One body under one declaration.

    Args:
        name: File beside this module, without its ending.
        shebang: First line; without `allow-oom` a full Redis refuses the script before it begins.
    """

    def __init__(self, name: str, *, shebang: str) -> None:
        body = resources.files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
        self.source: Final = f"{shebang}\n{body}"
        self.digest: Final = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, link: Link, keys: Sequence[str], arguments: Sequence[str | bytes]) -> Any:
        """Run the script, sending its body where the server has lost it.

        Raises:
            redis.exceptions.ResponseError: The script failed, or Redis is out of memory.
            StoreUnavailable: See Link.ask.
        """
        try:
            (reply,) = await link.ask(("EVALSHA", self.digest, len(keys), *keys, *arguments))
        except redis_errors.ResponseError as error:
            if remedy_of(error) is not Remedy.LOAD_SCRIPT:
                raise
            (reply,) = await link.ask(("EVAL", self.source, len(keys), *keys, *arguments))
        return reply


_REFUSED_WHEN_FULL: Final = "#!lua"
_ALLOWED_WHEN_FULL: Final = "#!lua flags=allow-oom"

SUBMIT: Final = Script("commit", shebang=_REFUSED_WHEN_FULL)
SETTLE: Final = Script("commit", shebang=_ALLOWED_WHEN_FULL)
TRIM: Final = Script("trim", shebang=_ALLOWED_WHEN_FULL)
FORGET: Final = Script("forget", shebang=_ALLOWED_WHEN_FULL)
LEAVE: Final = Script("leave", shebang=_ALLOWED_WHEN_FULL)
DROP_TIMERS: Final = Script("drop_timers", shebang=_ALLOWED_WHEN_FULL)
IMPORT: Final = Script("import", shebang=_ALLOWED_WHEN_FULL)
DISCARD: Final = Script("discard", shebang=_ALLOWED_WHEN_FULL)
TALLY: Final = Script("tally", shebang=_ALLOWED_WHEN_FULL)
SURVEY: Final = Script("survey", shebang=_ALLOWED_WHEN_FULL)
REPAIR: Final = Script("repair", shebang=_ALLOWED_WHEN_FULL)
RECOUNT: Final = Script("recount", shebang=_ALLOWED_WHEN_FULL)
UPKEEP: Final = Script("upkeep", shebang=_ALLOWED_WHEN_FULL)


async def preload(link: Link, *scripts: Script) -> None:
    """Send scripts ahead, so that no call has to wait for that. One that is refused comes later.

    Raises:
        StoreUnavailable: See Link.ask.
    """
    with contextlib.suppress(redis_errors.ResponseError):
        await link.ask(*(("SCRIPT", "LOAD", script.source) for script in scripts))


async def keep(link: Link, keys: Sequence[str], *commands: Command) -> None:
    """Carry out commands also when Redis is full; atomic.

    Idempotence: only for commands that may be carried out twice.

    Args:
        keys: All that the commands name.

    Raises:
        redis.exceptions.ResponseError: A command failed; those before it are carried out.
        StoreUnavailable: See Link.ask.
    """
    words = [
        word if isinstance(word, bytes) else str(word)
        for command in commands
        for word in (len(command), *command)
    ]
    await UPKEEP.run(link, keys, words)
