"""A language model translates and judges a task through real processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.cluster import running_cluster
from tests.support.language_model import KEY, running_model

pytestmark = [pytest.mark.parallel]

SHIPPED_WORKER = (sys.executable, "-m", "stepstream_worker")
DOCUMENT = {"text": "# 软件\n\n请把鼠标接好。\n", "source_lang": "zh-CN", "target_lang": "is"}
RETRY_AFTER_S = 1


async def test_a_model_that_is_busy_is_asked_again_when_it_said(tmp_path: Path):
    with running_model() as model:
        model.replies.append((429, {"Retry-After": str(RETRY_AFTER_S)}, b""))
        async with running_cluster(tmp_path, workers=0, STEPSTREAM_PIPELINES="") as cluster:
            await cluster.start_worker(
                argv=SHIPPED_WORKER, LLM_BASE_URL=model.url, LLM_API_KEY=KEY, LLM_MODEL="m1"
            )
            client = cluster.client()
            first = await client.submit("translation", DOCUMENT)
            (task,) = await cluster.finished([first.task_id])
            again = await client.submit("translation", DOCUMENT)
            (other,) = await cluster.finished([again.task_id])

            assert (task.state, task.result) == ("done", other.result)
            assert task.outputs["translate"]["engine"] == "llm:m1"
            assert [error.code for error in task.errors] == ["ENGINE_BUSY"]
            retried = [event for event in await cluster.history(first.task_id) if event.delay_s]
            assert [event.delay_s for event in retried] == [pytest.approx(RETRY_AFTER_S, abs=0.3)]
            told = "".join(cluster.workers["w-0"].lines) + str(task)
            assert KEY not in told
