"""`python -m stepstream_worker`: the translation worker as a process."""

from __future__ import annotations

import sys

from stepstream.errors import StepstreamError
from stepstream_worker.app import make_worker


def main() -> None:
    """Serves until SIGTERM; status 1 when a dispatcher refuses the worker, 2 for a bad setting."""
    if sys.argv[1:]:
        # Whoever asks something must not start a worker by it.
        sys.stderr.write(f"error: unknown words: {' '.join(sys.argv[1:])}\n")
        raise SystemExit(2)
    try:
        make_worker().run()
    except StepstreamError as error:
        sys.stderr.write(f"refused: {error}\n")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
