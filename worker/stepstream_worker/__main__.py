"""`python -m stepstream_worker`: the translation worker as a process."""

from __future__ import annotations

import sys

import msgspec

from stepstream.errors import StepstreamError
from stepstream.settings import SettingsError
from stepstream_worker.app import make_worker
from stepstream_worker.engines import engine_states
from stepstream_worker.settings import engine_settings


def print_engines() -> None:
    """Write a JSON line for each engine, for `stepstream doctor`.

    Raises:
        SystemExit: With 2 for a bad setting.
    """
    try:
        states = engine_states()
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error
    for state in states:
        sys.stdout.write(msgspec.json.encode(state).decode() + "\n")


def main() -> None:
    """Serves until SIGTERM; status 1 when a dispatcher refuses the worker, 2 for a bad setting."""
    if sys.argv[1:] == ["--engines"]:
        print_engines()
        return
    if sys.argv[1:]:
        # Whoever asks something must not start a worker by it.
        sys.stderr.write(f"error: unknown words: {' '.join(sys.argv[1:])}\n")
        raise SystemExit(2)
    try:
        engine_settings()
        make_worker().run()
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error
    except StepstreamError as error:
        sys.stderr.write(f"refused: {error}\n")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
