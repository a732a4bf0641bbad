"""The Lua scripts: their bodies, how they are declared, and EVALSHA with EVAL as the way back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

from redis import exceptions as redis_errors

from stepstream_dispatcher.store.redis_errors import Remedy, remedy_of
from stepstream_dispatcher.store.redis_link import Link

__all__ = [
    "DROP_TIMERS",
    "FORGET",
    "IMPORT",
    "SETTLE",
    "SUBMIT",
    "TRIM",
    "Script",
    "keep_up",
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
DROP_TIMERS: Final = Script("drop_timers", shebang=_ALLOWED_WHEN_FULL)
IMPORT: Final = Script("import", shebang=_ALLOWED_WHEN_FULL)
UPKEEP: Final = Script("upkeep", shebang=_ALLOWED_WHEN_FULL)


async def keep_up(link: Link, *commands: tuple[Sequence[str], str, Sequence[str | bytes]]) -> None:
    """Write what a full Redis must take too, all of it at once.

    Args:
        link: Connections.
        commands: Of each the words before its key, the key, and the words behind it.

    Raises:
        redis.exceptions.ResponseError: A command is at fault; those before it were carried out.
        StoreUnavailable: See Link.ask.
    """
    arguments: list[str | bytes] = []
    for before, _, behind in commands:
        arguments += [str(len(before)), str(len(before) + len(behind)), *before, *behind]
    await UPKEEP.run(link, [key for _, key, _ in commands], arguments)
