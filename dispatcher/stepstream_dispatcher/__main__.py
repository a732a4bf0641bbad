"""Run a dispatcher: `python -m stepstream_dispatcher`."""

from __future__ import annotations

import sys

from stepstream_dispatcher.addresses import ListenError
from stepstream_dispatcher.app import run
from stepstream_dispatcher.inspection import answer
from stepstream_dispatcher.logs import configure_logs
from stepstream_dispatcher.settings import load_settings


def main() -> int:
    """Read the settings and serve, or answer the question on the command line."""
    if sys.argv[1:]:
        return answer(sys.argv[1:])
    settings = load_settings()
    configure_logs(settings.log_format, debug=settings.debug)
    try:
        return run(settings)
    except ListenError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
