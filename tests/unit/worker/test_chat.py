"""The endpoint of a language model: what each of its answers means for the task."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator

import pytest

from stepstream import NotRetryable, RetryAfter
from stepstream.worker import Retryable
from stepstream_worker.engines.chat import Chat, Message
from stepstream_worker.settings import EngineSettings
from tests.support.language_model import KEY, LanguageModel, completion, running_model

QUESTION = [Message("user", "软件")]


@pytest.fixture
def model() -> Iterator[LanguageModel]:
    with running_model() as made:
        yield made


def chat(model: LanguageModel, *, timeout_s: float = 5.0, api_key: str = KEY) -> Chat:
    settings = EngineSettings(base_url=model.url, api_key=api_key, model="m1", timeout_s=timeout_s)
    return Chat(settings)


def test_the_model_is_named_and_the_key_is_in_the_header_alone(model: LanguageModel):
    assert chat(model).ask(QUESTION) == "軟體"

    assert model.asked[0]["model"] == "m1"
    assert model.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in str(model.asked)


def test_without_a_key_there_is_no_header(model: LanguageModel):
    chat(model, api_key="").ask(QUESTION)

    assert "Authorization" not in model.headers[0]


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (400, NotRetryable, "ENGINE_REFUSED"),
        (401, NotRetryable, "ENGINE_REFUSED"),
        (404, NotRetryable, "ENGINE_REFUSED"),
        (413, NotRetryable, "ENGINE_REFUSED"),
        (429, Retryable, "ENGINE_BUSY"),
        (500, Retryable, "ENGINE_ERROR"),
        (502, Retryable, "ENGINE_ERROR"),
        (503, Retryable, "ENGINE_BUSY"),
    ],
)
def test_status(model: LanguageModel, status: int, error: type[Exception], code: str):
    model.replies.append((status, {}, b"{}"))

    with pytest.raises(error) as raised:
        chat(model).ask(QUESTION)

    assert getattr(raised.value, "code", "") == code
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("status", [429, 503])
def test_the_time_that_is_asked_for_is_kept(model: LanguageModel, status: int):
    model.replies.append((status, {"Retry-After": "7"}, b""))

    with pytest.raises(RetryAfter) as raised:
        chat(model).ask(QUESTION)

    assert raised.value.seconds == 7


def test_the_time_may_be_a_date(model: LanguageModel):
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    model.replies.append((429, {"Retry-After": date}, b""))

    with pytest.raises(RetryAfter) as raised:
        chat(model).ask(QUESTION)

    assert 20 < raised.value.seconds <= 31


@pytest.mark.parametrize("value", ["soon", "-5", "", "99999999"])
def test_a_strange_time_does_no_harm(model: LanguageModel, value: str):
    model.replies.append((429, {"Retry-After": value}, b""))

    with pytest.raises((Retryable, RetryAfter)) as raised:
        chat(model).ask(QUESTION)

    assert getattr(raised.value, "seconds", 0) <= 3600


CASES = {
    "cut off": (completion("half", finish="length"), Retryable, "ENGINE_TRUNCATED"),
    "broken json": (b'{"choices": [{"mess', Retryable, "ENGINE_TRUNCATED"),
    "no choice": (b'{"choices": []}', Retryable, "ENGINE_EMPTY"),
    "empty": (completion("  "), Retryable, "ENGINE_EMPTY"),
    "null": (completion(None), Retryable, "ENGINE_EMPTY"),
    "another form": (b'{"error": "x"}', Retryable, "ENGINE_TRUNCATED"),
    "not utf-8": (b"\xff\xfe", Retryable, "ENGINE_TRUNCATED"),
    "refusal": (completion("", refusal="no"), NotRetryable, "CONTENT_REFUSED"),
    "filter": (completion("x", finish="content_filter"), NotRetryable, "CONTENT_REFUSED"),
}


@pytest.mark.parametrize("name", CASES)
def test_answer(model: LanguageModel, name: str):
    content, error, code = CASES[name]
    model.replies.append((200, {}, content))

    with pytest.raises(error) as raised:
        chat(model).ask(QUESTION)

    assert getattr(raised.value, "code", "") == code


def test_a_connection_that_breaks_off(model: LanguageModel):
    model.replies.append((200, {"Content-Length": "5000"}, b'{"choices": ['))

    with pytest.raises(Retryable) as raised:
        chat(model).ask(QUESTION)

    assert raised.value.code == "ENGINE_TRUNCATED"


def test_an_endpoint_that_does_not_answer(model: LanguageModel):
    model.hangs = 1

    with pytest.raises(Retryable) as raised:
        chat(model, timeout_s=0.2).ask(QUESTION)

    assert raised.value.code == "ENGINE_TIMEOUT"


def test_nobody_listens():
    settings = EngineSettings(base_url="http://127.0.0.1:1", model="m1")

    with pytest.raises(Retryable) as raised:
        Chat(settings).ask(QUESTION)

    assert raised.value.code == "ENGINE_ERROR"


def test_a_request_has_a_limit(model: LanguageModel):
    with pytest.raises(NotRetryable) as raised:
        chat(model).ask([Message("user", "a" * 200_001)])

    assert (raised.value.code, model.asked) == ("CONTENT_TOO_LONG", [])
