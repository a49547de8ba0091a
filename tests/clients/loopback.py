"""The redirect URI of a client on a user's machine: a web server on the loopback interface (RFC 8252, section 7.3)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue
from urllib.parse import parse_qs, urlsplit

PAGE = b'<!doctype html><title>Done</title><p id="arrived">You can go back to your client.</p>'
SECONDS = 60.0


class Loopback(HTTPServer):
    """Answers whatever is redirected to it, and keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.told: Queue[dict[str, str]] = Queue()

    @property
    def redirect_uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/callback"

    def answer(self) -> dict[str, str]:
        """What came with the next redirect."""
        return self.told.get(timeout=SECONDS)


class Handler(BaseHTTPRequestHandler):
    server: Loopback

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/callback":
            self.server.told.put({name: value for name, (value,) in parse_qs(parts.query).items()})
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        """What came holds a code, and belongs into no output."""


@contextmanager
def loopback() -> Iterator[Loopback]:
    with Loopback() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
