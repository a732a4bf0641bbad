"""Who listens at a port: read from /proc, so on Linux, and of one's own processes only."""

from pathlib import Path

__all__ = ["owner_of"]

_LISTEN = "0A"  # TCP_LISTEN in linux/tcp_states.h
_PROC = Path("/proc")
_WORDS_MAX = 60


def owner_of(port: int) -> str:
    """Names the process that listens at a port, as `pid 17 (redis-server)`; empty when unknown."""
    inodes = {f"socket:[{inode}]" for inode in _listening(port)}
    if not inodes:
        return ""
    for process in _PROC.glob("[0-9]*"):
        if _holds(process, inodes):
            return f"pid {process.name} ({_command(process)})"
    return ""


def _listening(port: int) -> set[str]:
    """The inodes of the sockets that listen at a port."""
    found = set()
    for table in ("net/tcp", "net/tcp6"):
        for line in _lines(_PROC / table)[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(fields[9])
    return found


def _holds(process: Path, links: set[str]) -> bool:
    try:
        return any(str(file.readlink()) in links for file in (process / "fd").iterdir())
    except OSError:  # somebody else's, or gone meanwhile
        return False


def _command(process: Path) -> str:
    words = " ".join(_lines(process / "cmdline")).replace("\0", " ").strip()
    return words if len(words) <= _WORDS_MAX else words[: _WORDS_MAX - 1] + "…"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
