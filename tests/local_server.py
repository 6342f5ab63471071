"""A server on this machine, such as a hub of models, as far as a test asks it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

COMMIT = "a" * 40


class Server(BaseHTTPRequestHandler):
    """`answer` says what stands behind a path of the URL, without its query; `always` are headers of all answers."""

    always: ClassVar[dict[str, str]] = {}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, content."""
        raise NotImplementedError

    def do_HEAD(self) -> None:
        self._send()

    def do_GET(self) -> None:
        self.wfile.write(self._send())

    def _send(self) -> bytes:
        status, headers, content = self.answer(self.path.split("?")[0])
        self.send_response(status)
        for header, value in {**self.always, **headers, "Content-Length": str(len(content))}.items():
            self.send_header(header, value)
        self.end_headers()
        return content

    def log_message(self, *_: object) -> None:
        pass


class Hub(Server):
    always: ClassVar[dict[str, str]] = {"X-Repo-Commit": COMMIT}


@contextmanager
def serving(kind: type[Server]) -> Iterator[str]:
    """Its address; a hub's is for HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
