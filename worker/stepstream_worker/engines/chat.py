"""One call of an OpenAI-compatible endpoint, and what each way to fail means for the task.

The key is in the header alone: no message and no log has it.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from stepstream import NotRetryable, RetryAfter
from stepstream.worker import Retryable

if TYPE_CHECKING:
    import httpx

    from stepstream_worker.settings import EngineSettings

__all__ = ["Chat", "Message"]

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
REQUEST_CHARACTERS_MAX: Final = 200_000
CONNECTIONS_MAX: Final = 8
RETRY_AFTER_S_MAX: Final = 3_600.0
TEMPERATURE: Final = 0.0  # the same text, the same answer, as far as the model can

# Status → (code, what to do); another attempt would be answered alike.
_REFUSALS: Final = {
    400: ("ENGINE_REFUSED", "the endpoint does not take the request; is the text too long?"),
    401: ("ENGINE_REFUSED", "set LLM_API_KEY"),
    403: ("ENGINE_REFUSED", "the key may not use this model: LLM_API_KEY, LLM_MODEL"),
    404: ("ENGINE_REFUSED", "no such route or model: LLM_BASE_URL, LLM_MODEL"),
    413: ("ENGINE_REFUSED", "the text is too long for this endpoint"),
    422: ("ENGINE_REFUSED", "the endpoint does not take the request"),
}


class Message(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: str  # system, user or assistant
    content: str


class _Said(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Said
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]


class Chat:
    """A conversation partner.

    Args:
        settings: Where it is, its key, the model, and how long a request may take.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.model = settings.model
        self._url = settings.base_url.rstrip("/") + "/chat/completions"
        self._key = settings.api_key
        self._timeout_s = settings.timeout_s

    def ask(self, messages: list[Message], *, schema: dict[str, Any] | None = None) -> str:
        """Get the answer to a conversation.

        Args:
            messages: At most 200,000 characters in all.
            schema: JSON schema that the answer shall follow; None: text.

        Raises:
            NotRetryable: CONTENT_REFUSED, CONTENT_TOO_LONG, ENGINE_REFUSED.
            RetryAfter: ENGINE_BUSY, with the time that the endpoint asked for.
            Retryable: ENGINE_BUSY, ENGINE_ERROR, ENGINE_TIMEOUT, ENGINE_TRUNCATED, ENGINE_EMPTY.
        """
        if sum(len(message.content) for message in messages) > REQUEST_CHARACTERS_MAX:
            words = f"a request has at most {REQUEST_CHARACTERS_MAX:,} characters"
            raise NotRetryable(words, code="CONTENT_TOO_LONG")
        body: dict[str, Any] = {
            "model": self.model,
            "messages": msgspec.to_builtins(messages),
            "temperature": TEMPERATURE,
        }
        if schema is not None:
            form = {"name": "verdict", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return _text_of(self._post(body))

    def _post(self, body: dict[str, Any]) -> bytes:
        import httpx  # noqa: PLC0415 - half a second that only this engine needs

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            with _client(self._timeout_s).stream(
                "POST", self._url, json=body, headers=headers
            ) as response:
                content = _bounded(response, time.monotonic() + self._timeout_s)
        except httpx.TimeoutException as error:
            words = f"the model did not answer within {self._timeout_s:g} s"
            raise Retryable(words, code="ENGINE_TIMEOUT") from error
        except httpx.RemoteProtocolError as error:
            words = "the model's answer broke off"
            raise Retryable(words, code="ENGINE_TRUNCATED") from error
        except httpx.HTTPError as error:
            words = f"the model cannot be reached: {type(error).__name__}"
            raise Retryable(words, code="ENGINE_ERROR") from error
        _check(response)
        return content


@lru_cache(maxsize=4)
def _client(timeout_s: float) -> httpx.Client:
    """One pool a process; threads share it."""
    import httpx  # noqa: PLC0415 - see `Chat._post`

    limits = httpx.Limits(max_connections=CONNECTIONS_MAX)
    return httpx.Client(timeout=timeout_s, limits=limits)


def _bounded(response: httpx.Response, end_mono: float) -> bytes:
    """Read an answer to its end, in bounded size and time."""
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > ANSWER_BYTES_MAX:
            raise Retryable(f"the answer is over {ANSWER_BYTES_MAX} bytes", code="ENGINE_ERROR")
        if time.monotonic() > end_mono:
            raise Retryable("the model answers too slowly", code="ENGINE_TIMEOUT")
    return bytes(content)


def _check(response: httpx.Response) -> None:
    status = response.status_code
    if status in {429, 503}:
        words = f"the model is busy ({status})"
        if (seconds := _retry_after_s(response.headers.get("Retry-After", ""))) is not None:
            raise RetryAfter(seconds, words, code="ENGINE_BUSY")
        raise Retryable(words, code="ENGINE_BUSY")
    if status in _REFUSALS:
        code, advice = _REFUSALS[status]
        raise NotRetryable(f"the endpoint answered {status}: {advice}", code=code)
    if not response.is_success:
        raise Retryable(f"the endpoint answered {status}", code="ENGINE_ERROR")


def _retry_after_s(value: str) -> float | None:
    """Read Retry-After, seconds or a date; None when it is neither."""
    if value.strip().isdecimal():
        return min(float(value), RETRY_AFTER_S_MAX)
    try:
        at = parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError):
        return None
    return min(max(0.0, at - time.time()), RETRY_AFTER_S_MAX)


def _text_of(content: bytes) -> str:
    try:
        choices = msgspec.json.decode(content, type=_Answer).choices
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        words = "the model's answer is no chat completion, or broke off"
        raise Retryable(words, code="ENGINE_TRUNCATED") from error
    if not choices:
        raise Retryable("the model said nothing", code="ENGINE_EMPTY")
    said, reason = choices[0].message, choices[0].finish_reason
    if said.refusal or reason == "content_filter":
        raise NotRetryable("the model refuses this text", code="CONTENT_REFUSED")
    if reason == "length":
        raise Retryable("the model's answer was cut off", code="ENGINE_TRUNCATED")
    if not (said.content or "").strip():
        raise Retryable("the model said nothing", code="ENGINE_EMPTY")
    return said.content or ""
