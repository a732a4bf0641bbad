"""The seeded bugs: each is a mistake that systems of this kind have been built with.

The numbers are those of this list, which anybody who tests a dispatcher can use: (1) no token
compare; (2) XACK before the commit; (3) the commit in two round trips; (4) the own pending list not
read again; (5) the cursor of a sweep not followed; (6) DELCONSUMER without a look at what is
pending; (7) dedupe on the attempt instead of the step; (8) wall clock for leases; (9) fallback on a
timeout; (10) a watch by pub/sub alone; (11) SIGTERM exits without hand-back; (12) ZREM and XADD in
two calls; (13) blind retry of a script that is not idempotent; (14) CancelledError swallowed;
(15) a full Redis taken for success; (16) a sweep that reads the index of leases alone.
"""

from __future__ import annotations

from typing import Final

from tests.mutants.planting import Bug, Edit

__all__ = ["BUGS", "PLAIN", "bug_of"]

# A task that nothing goes wrong with. It ends under every bug: one that breaks everything proves
# little, and is more likely a mistake of ours.
PLAIN: Final = (
    "tests/integration/test_tasks.py::test_an_approved_task_is_done_with_the_machines_result"
)

CHAOS: Final = (1, 60)  # seed and seconds of faults; what they do is a function of both

_CONTRACT: Final = "tests/contract"
_WHOLE: Final = "tests/integration"
_ENGINE: Final = "tests/unit/dispatcher/engine"
_VERDICTS: Final = f"{_CONTRACT}/test_verdicts.py"
_FAULTS: Final = f"{_CONTRACT}/test_redis_faults.py"
_LISTINGS: Final = f"{_CONTRACT}/test_listings.py"
_CUT: Final = f"{_WHOLE}/test_cut_points.py"
_LEAVING: Final = f"{_WHOLE}/test_leaving.py"
_RECOVERY: Final = f"{_ENGINE}/test_recovery.py"

BUGS: Final = (
    Bug(
        name="no-token-compare",
        number="1",
        breaks="whoever reports a result is believed, whatever lease it has",
        edits=(
            Edit(where="commit.lua", old="lease ~= '' and held ~= lease", new="false"),
            Edit(
                where="stepstream_dispatcher.store.local_commit",
                old='if transition.lease and fields.get("lease", "") != transition.lease:',
                new="if False:",
            ),
            Edit(
                where="stepstream_dispatcher.core.moves",
                old="if fact.token != record.lease:",
                new="if False:",
                times=6,
            ),
        ),
        tests=(
            f"{_VERDICTS}::test_another_lease_is_stale_whatever_the_version",
            f"{_ENGINE}/test_settling.py::test_result_of_an_old_lease_is_stale",
        ),
        chaos=CHAOS,
    ),
    Bug(
        name="ack-before-commit",
        number="2",
        breaks="an entry is acknowledged when it is read, before its lease is recorded",
        edits=(
            Edit(
                where="stepstream_dispatcher.store.redis_lanes",
                old='*options, "STREAMS", *lanes)',
                new='*options, "NOACK", "STREAMS", *lanes)',
            ),
        ),
        tests=(
            f"{_CUT}::test_a_dispatcher_killed_at[read]",
            f"{_CONTRACT}/test_lanes.py::test_what_was_taken_is_pending_with_its_taker",
        ),
        chaos=CHAOS,
    ),
    Bug(
        name="two-round-trips",
        number="3",
        breaks="the record is written by one call, the next entry added by another",
        edits=(
            Edit(
                where="stepstream_dispatcher.store.redis_commit",
                old="            answers = await self._run(transitions, kind=kind, "
                "live_max=live_max)\n",
                new="""\
            bare = [msgspec.structs.replace(one, enqueue=None) for one in transitions]
            answers = await self._run(bare, kind=kind, live_max=live_max)
            for at, one in enumerate(transitions):
                if one.enqueue is not None and answers[at] == b"APPLIED":
                    (entry,) = await self._link.ask(
                        (
                            "EVAL",
                            "local id = redis.call('XADD', KEYS[2], '*', 'task', ARGV[1],"
                            " 'step', ARGV[2]) redis.call('HSET', KEYS[1], 'entry', id)"
                            " return id",
                            2,
                            self._keys.record(one.task_id),
                            self._keys.stream(one.enqueue),
                            one.task_id,
                            one.fields.get("step", one.event.step),
                        )
                    )
                    answers[at] = [b"APPLIED", entry]
""",
            ),
        ),
        tests=(
            f"{_FAULTS}::test_a_commit_whose_reply_is_lost_is_applied_once",
            f"{_CUT}::test_a_commit_whose_answer_is_lost_is_recorded_once",
        ),
        chaos=CHAOS,
    ),
    Bug(
        name="own-list-not-reread",
        number="4",
        breaks="what was taken before a restart or a reconnect is never looked at again",
        edits=(
            Edit(
                where="stepstream_dispatcher.engine.recovery",
                old="            group.create_task(_again(self.sweep_own, EVERY_S))\n",
                new="",
            ),
        ),
        tests=(
            f"{_CUT}::test_a_dispatcher_killed_at[read]",
            f"{_CUT}::test_a_dispatcher_killed_at[leased]",
        ),
        chaos=CHAOS,
    ),
    Bug(
        name="cursor-not-followed",
        number="5",
        breaks="a sweep sees the first page of a pending list and none behind it",
        edits=(
            Edit(
                where="stepstream_dispatcher.engine.recovery",
                old="                after = page[-1].entry_id\n",
                new="                break\n",
            ),
        ),
        tests=(f"{_RECOVERY}::test_work_behind_a_page_of_others_that_go_on_is_found",),
    ),
    Bug(
        name="consumer-deleted-with-its-entries",
        number="6",
        breaks="a dead dispatcher is forgotten with what is pending under its name",
        edits=(
            Edit(where="forget.lua", old="consumer) > 0 then", new="consumer) > 1e9 then"),
            Edit(
                where="stepstream_dispatcher.engine.recovery",
                old="if not left:",
                new="if left >= 0:",
            ),
        ),
        tests=(f"{_LISTINGS}::test_a_dispatcher_with_entries_is_kept_with_them",),
    ),
    Bug(
        name="dedupe-on-the-report",
        number="7",
        breaks="a result is known again by the operation id of its report, not by its step",
        edits=(
            Edit(where="commit.lua", old="settling ~= '' and settled_by == lease or ", new=""),
            Edit(where="commit.lua", old="  if settling == '' then", new="  if true then"),
            Edit(
                where="stepstream_dispatcher.store.redis_commit",
                old="    if transition.settles:\n"
                '        parts += f"settled:{transition.settles}", transition.lease\n',
                new="",
            ),
            Edit(
                where="stepstream_dispatcher.store.redis_commit",
                old="if not (transition.settles or transition.touch):",
                new="if not transition.touch:",
            ),
        ),
        tests=(
            f"{_VERDICTS}::test_a_settlement_by_the_same_lease_is_a_duplicate_under_any_operation_id",
            f"{_LISTINGS}::test_who_settled_a_step_last_is_known",
        ),
    ),
    Bug(
        name="wall-clock-for-leases",
        number="8",
        breaks="silence and limits of workers are measured by a clock that somebody may set",
        edits=(
            Edit(
                where="stepstream_dispatcher.engine.leases",
                old="TICK_S: Final = 0.1",
                new="import time\n_BEGAN = time.time() - time.monotonic()\nTICK_S: Final = 0.1",
            ),
            Edit(
                where="stepstream_dispatcher.engine.leases",
                old="            now = loop.time()\n",
                new="            now = loop.time() + time.time() - time.monotonic() - _BEGAN\n",
            ),
        ),
        tests=(f"{_WHOLE}/test_clock_set.py", f"{_ENGINE}/test_leases.py"),
    ),
    Bug(
        name="fallback-on-timeout",
        number="9",
        breaks="a Redis that is slow to answer is taken for one that is down",
        edits=(
            Edit(
                where="stepstream_dispatcher.engine.fallback",
                old="            except StoreUnreachable as error:\n",
                new="            except StoreUnavailable as error:\n",
            ),
        ),
        tests=(
            f"{_WHOLE}/test_redis_slow.py::test_a_frozen_redis_never_opens_the_fallback",
            f"{_ENGINE}/test_fallback.py::test_slow_redis_is_not_down",
        ),
    ),
    Bug(
        name="watch-by-push-alone",
        number="10",
        breaks="a watcher is told what is pushed and never reads the history",
        edits=(
            Edit(
                where="stepstream_dispatcher.engine.watch",
                old="await self._missed(task_id, last) if look else watcher.take(last)",
                new="watcher.take(last)",
            ),
        ),
        tests=(
            f"{_WHOLE}/test_clients_move.py::test_a_watch_goes_on_without_a_gap_or_a_repetition",
            f"{_ENGINE}/test_watch.py::test_no_event_is_missed_or_doubled",
        ),
        chaos=CHAOS,
    ),
    Bug(
        name="dispatcher-exits-at-once",
        number="11",
        breaks="a dispatcher that is told to leave exits, without a word to workers and callers",
        edits=(
            Edit(
                where="stepstream_dispatcher.app",
                old="await engine.drain(grace_s=settings.grace_s)",
                new='__import__("os")._exit(0)',
            ),
        ),
        tests=(f"{_LEAVING}::test_a_dispatcher_alone_waits_for_running_steps",),
    ),
    Bug(
        name="worker-exits-with-its-attempts",
        number="11",
        breaks="a worker whose grace is over leaves without giving back what it runs",
        edits=(
            Edit(
                where="stepstream.worker.link",
                old="self._later(grace_s, self._desk.give_back_all)",
                new="self._later(grace_s, self._stop_now)",
            ),
        ),
        tests=(f"{_LEAVING}::test_what_a_leaving_worker_is_known_to_run_is_given_back_too",),
    ),
    Bug(
        name="timer-taken-before-the-entry",
        number="12",
        breaks="what is due leaves the delayed set by one call and is queued by another",
        edits=(
            Edit(
                where="stepstream_dispatcher.store.redis",
                old="        return await self._reads.due(limit=limit)\n",
                new="        found = await self._reads.due(limit=limit)\n"
                "        if found[0]:\n"
                '            await self._link.ask(("ZREM", self.keys.delayed, *found[0]))\n'
                "        return found\n",
            ),
        ),
        tests=(
            f"{_CUT}::test_a_dispatcher_killed_at[due]",
            f"{_LISTINGS}::test_due_tasks_come_the_earliest_first_and_name_the_next",
        ),
        chaos=CHAOS,
    ),
    Bug(
        name="resend-carried-out-again",
        number="13",
        breaks="operation ids are not looked at, and the client sends again what got no answer",
        edits=(Edit(where="commit.lua", old="is_kept(ops or '', op_id)", new="false"),),
        tests=(
            f"{_FAULTS}::test_a_commit_whose_reply_is_lost_is_applied_once",
            f"{_VERDICTS}::test_a_transition_sent_again_is_a_duplicate",
        ),
        chaos=CHAOS,
    ),
    Bug(
        name="cancellation-swallowed",
        number="14",
        breaks="a loop that is cancelled is run again",
        edits=(
            Edit(
                where="stepstream_dispatcher.engine.supervise",
                old="        except Exception as error:\n",
                new="        except asyncio.CancelledError:\n"
                "            continue\n"
                "        except Exception as error:\n",
            ),
        ),
        tests=(f"{_LEAVING}::test_idle_processes_leave_at_once",),
    ),
    Bug(
        name="full-taken-for-success",
        number="15",
        breaks="a Redis that refuses a Submit because it is full is taken to have kept it",
        edits=(
            Edit(
                where="stepstream_dispatcher.store.redis_commit",
                old="_FULL: Final = Result(Verdict.FULL)",
                new="_FULL: Final = Result(Verdict.APPLIED)",
            ),
        ),
        tests=(f"{_FAULTS}::test_a_full_redis_refuses_what_is_new_and_lets_work_end",),
    ),
    Bug(
        name="sweep-of-leases-alone",
        number="16",
        instead="there is no index of leases; what such a sweep overlooks is what has none",
        breaks="a sweep looks after what is leased, and not what was taken and never leased",
        edits=(
            Edit(
                where="stepstream_dispatcher.engine.recovery",
                old='return Requeued(entry=entry.entry_id, reason="taken and not leased")',
                new="return None",
            ),
            Edit(
                where="stepstream_dispatcher.engine.recovery",
                old='return Requeued(entry=entry.entry_id, reason=f"dispatcher {dead} is gone")',
                new="return None",
            ),
        ),
        tests=(
            f"{_CUT}::test_a_dispatcher_killed_at[read]",
            f"{_ENGINE}/test_recovery.py::test_entry_that_was_taken_and_not_leased_is_queued_again",
        ),
        chaos=CHAOS,
    ),
    Bug(
        name="receipt-before-it-is-durable",
        number="",
        breaks="a result that could not be recorded is receipted, so that its worker forgets it",
        edits=(
            Edit(
                where="stepstream_dispatcher.engine.settling",
                old='return _receipt(settlement, "RETRY_LATER")',
                new='return _receipt(settlement, "ACCEPTED")',
            ),
        ),
        tests=(f"{_WHOLE}/test_redis_restart.py",),
        chaos=CHAOS,
    ),
    Bug(
        name="result-forgotten-when-sent",
        number="",
        breaks="a worker forgets a result once it is written to the stream, unreceipted",
        edits=(
            Edit(
                where="stepstream.worker.inventory",
                old="            taken.append(item.result)\n",
                new="            taken.append(item.result)\n            self.drop(item.token)\n",
            ),
        ),
        tests=(f"{_CUT}::test_a_dispatcher_killed_at[reported]",),
        chaos=CHAOS,
    ),
    Bug(
        name="request-id-ignored",
        number="",
        breaks="a Submit that is sent again is another task",
        edits=(
            Edit(
                where="stepstream_dispatcher.engine.desk",
                old="task_id_of(self._namespace, request_id) if request_id else new_task_id()",
                new="new_task_id()",
            ),
        ),
        tests=(
            f"{_WHOLE}/test_tasks.py::test_the_same_request_id_is_the_same_task",
            f"{_WHOLE}/test_clients_move.py::test_submits_over_a_kill_are_accepted_once",
        ),
        chaos=CHAOS,
    ),
)


def bug_of(name: str) -> Bug:
    """The bug of a name.

    Raises:
        LookupError: There is none.
    """
    for bug in BUGS:
        if bug.name == name:
            return bug
    raise LookupError(f"no bug {name}; there are: {', '.join(bug.name for bug in BUGS)}")
