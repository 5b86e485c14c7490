"""A chat completion server with scripted responses, errors and broken connections."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Said:
    """A response; `hangs_up` closes the connection without one, `waits` never answers.

    `repeats` sends the body again and again until the client or the server closes, with that many seconds in between.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hangs_up: bool = False
    waits: bool = False
    repeats: float | None = None


def completion(text: Any, finish: str = "stop") -> Said:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 1000, "completion_tokens": 3}
    return Said(body=json.dumps({"choices": [choice], "usage": usage}).encode())


class ScriptedServer:
    """Sends the response that `respond` returns for a request's number, from 0, and body; records bodies and headers."""

    def __init__(self, respond: Callable[[int, dict[str, Any]], Said]) -> None:
        self.respond, self.bodies, self.headers = respond, [], []  # type: ignore[var-annotated]
        self.lock, self.ends = threading.Lock(), threading.Event()
        self.url = ""

    @contextmanager
    def running(self) -> Iterator[ScriptedServer]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.ends.set()
            server.shutdown()
            thread.join()
            server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with script.lock:
                    number = len(script.bodies)
                    script.bodies.append(body | {"path": self.path})
                    script.headers.append(dict(self.headers))
                response = script.respond(number, body)
                if response.waits:
                    script.ends.wait()
                if response.waits or response.hangs_up:
                    self.close_connection = True
                    return
                self.send_response(response.status)
                length = {} if response.repeats is not None else {"Content-Length": str(len(response.body))}
                for name, value in (response.headers | length).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(response.body)
                while response.repeats is not None and not script.ends.wait(response.repeats):
                    try:
                        self.wfile.write(response.body)
                    except OSError:  # the client has closed the connection
                        self.close_connection = True
                        return

            def log_message(self, *_: Any) -> None:
                """Print no log."""

        return Handler
