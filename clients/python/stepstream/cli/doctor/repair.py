"""Has a dispatcher mend what differs from the tasks' records in Redis."""

import stepstream
from stepstream import errors
from stepstream.cli.doctor.finding import Finding, bad, fine, warn
from stepstream.cli.probe import dialable
from stepstream.types import Repairs

__all__ = ["judge_repairs", "repair_by"]

_NAME = "repair"


def repair_by(address: str) -> Finding:
    """Asks the dispatcher at an address, and waits until it is done."""
    try:
        with stepstream.Client(address, retry_s=0.0) as client:
            return judge_repairs(client.operator.repair())
    except errors.NotServed:
        return bad(_NAME, "the dispatcher cannot", "upgrade it")
    except (errors.StepstreamError, TimeoutError) as error:
        return bad(_NAME, f"{dialable(address)}: {error}", "look at the dispatcher's log")


def judge_repairs(repairs: Repairs) -> Finding:
    """Says what was repaired."""
    over = f"{repairs.tasks} tasks in {repairs.duration_s:.1f} s"
    if not repairs.counted:
        return warn(_NAME, f"{over}; the counts are not verified", "run it again")
    if not repairs.repaired:
        return fine(_NAME, f"nothing to repair; {over}")
    shown = ", ".join(f"{n} {kind}" for kind, n in sorted(repairs.repaired.items()))
    return fine(_NAME, f"repaired: {shown}; {over}")
