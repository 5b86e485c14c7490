"""A server of chat completions that does as it is told: it answers, fails, hangs up or talks nonsense."""

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
    """What a server says: a status, headers and a body; `hangs_up` says nothing and closes, `waits` never answers.

    `repeats` says the body again and again, until nobody listens or the server ends, with so many seconds in between.
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
    """Says what `say` returns for the number of a request, from 0, and its body; notes the bodies and the headers."""

    def __init__(self, say: Callable[[int, dict[str, Any]], Said]) -> None:
        self.say, self.bodies, self.headers = say, [], []  # type: ignore[var-annotated]
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
                said = script.say(number, body)
                if said.waits:
                    script.ends.wait()
                if said.waits or said.hangs_up:
                    self.close_connection = True
                    return
                self.send_response(said.status)
                length = {} if said.repeats is not None else {"Content-Length": str(len(said.body))}
                for name, value in (said.headers | length).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(said.body)
                while said.repeats is not None and not script.ends.wait(said.repeats):
                    try:
                        self.wfile.write(said.body)
                    except OSError:  # nobody listens any more
                        self.close_connection = True
                        return

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler
