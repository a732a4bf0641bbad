"""What a shell offers when a person presses Tab."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from stepstream.cli.probe import free_address
from stepstream.settings import child_environment
from stepstream.v1 import operator_service_pb2 as pb2
from tests.unit.client.dispatcher_stub import make_task
from tests.unit.client.operator_stub import make_worker, serving_both


@pytest.fixture
def complete(stub) -> Iterator[Callable[..., list[str]]]:
    """Completes the last of the words, as bash asks for it."""
    stub.tasks["t1"] = make_task("t1")
    stub.workers[0] = [make_worker("alpha"), make_worker("beta")]
    steps = [pb2.PipelineStep(name="a", queue="default"), pb2.PipelineStep(name="b")]
    stub.pipelines = [pb2.Pipeline(name="p", steps=steps)]

    def ask(*words: str, at: str = "") -> list[str]:
        environment = {
            "COMP_WORDS": " ".join(("stepstream", *words)),
            "COMP_CWORD": str(len(words)),
            "_STEPSTREAM_COMPLETE": "complete_bash",
            "STEPSTREAM_ADDRESS": at or address,
        }
        code = "from stepstream.cli.app import app; app(prog_name='stepstream')"
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env=child_environment(environment),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.stderr == ""
        return ran.stdout.split()

    with serving_both(stub) as address:
        yield ask


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("doc",), ["doctor"]),
        (("pipelines", "c"), ["check"]),
        (("drain", "a"), ["alpha"]),
        (("pause", "d"), ["default"]),
        (("resume", "x"), []),
        (("get", "t"), ["t1"]),
        (("list", "--state", "d"), ["done"]),
    ],
)
def test_commands_names_and_states_are_completed(complete, words, offered):
    assert complete(*words) == offered


def test_nobody_to_ask_is_no_offer_and_no_complaint(complete):
    assert complete("drain", "a", at=free_address()) == []


def test_a_bad_setting_is_no_offer_and_no_complaint(complete):
    assert complete("drain", "a", at="nonsense") == []
