"""A hub of models on this machine, as far as a test asks it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """`answer` says what stands behind a path of the URL, without its query."""

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
        for header, value in {"X-Repo-Commit": COMMIT, **headers, "Content-Length": str(len(content))}.items():
            self.send_header(header, value)
        self.end_headers()
        return content

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(hub: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Its address, for HF_ENDPOINT; or that of another server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
