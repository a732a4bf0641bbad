"""An OpenAI-compatible endpoint for tests: it answers as it is told, in turn."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import opencc

__all__ = ["KEY", "LanguageModel", "running_model"]

KEY = "sk-test-hunter2"
PASSED = {"passed": True, "score": 97, "findings": []}

Reply = tuple[int, dict[str, str], bytes]


class LanguageModel:
    """What the endpoint was asked, and what it will answer."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.replies: deque[Reply] = deque()  # before those that it makes itself
        self.let_go = threading.Event()  # a request that hangs waits for it
        self.hangs = 0  # requests to come that are not answered until then
        self.verdict: dict[str, Any] = PASSED
        self._convert: Callable[[str], str] = opencc.OpenCC("s2twp").convert

    def say(self, content: str | None, *, finish: str = "stop", refusal: str = "") -> None:
        """Answer the next request with these words."""
        self.replies.append((200, {}, completion(content, finish, refusal)))

    def answer(self, request: dict[str, Any]) -> Reply:
        """The answer to a request: what was told, else a translation or a verdict."""
        self.asked.append(request)
        if self.hangs:
            self.hangs -= 1
            self.let_go.wait(30)
        if self.replies:
            return self.replies.popleft()
        if "response_format" in request:
            return 200, {}, completion(json.dumps(self.verdict))
        return 200, {}, completion(self._convert(request["messages"][-1]["content"]))


def completion(content: str | None, finish: str = "stop", refusal: str = "") -> bytes:
    """The body of a chat completion."""
    message = {"role": "assistant", "content": content, "refusal": refusal or None}
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}]}).encode()


@contextmanager
def running_model() -> Iterator[LanguageModel]:
    """Serve on a free port until the end of the block."""
    model = LanguageModel()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            model.headers.append(dict(self.headers.items()))
            status, headers, content = model.answer(json.loads(body))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            if "Content-Length" in headers:  # it promises more than it sends
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    model.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield model
    finally:
        model.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
