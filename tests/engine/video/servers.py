"""Local servers that misbehave on request."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Handler = Callable[[http.server.BaseHTTPRequestHandler, int], None]


@contextmanager
def http_server(handle: Handler) -> Iterator[str]:
    """Serve GET by `handle(request, number)`, number counting from 0; gives the server's address."""
    count = iter(range(1_000_000))

    class Requests(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                handle(self, next(count))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *arguments: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def send_file(request: http.server.BaseHTTPRequestHandler, data: bytes, kind: str = "video/mp4") -> None:
    """A whole body of known length; ranges are not supported."""
    request.send_response(200)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def send_live(request: http.server.BaseHTTPRequestHandler, data: bytes, wait: Callable[[], object] = lambda: None) -> None:
    """A body without a length, which ends when the connection is closed; `wait` is called before the end."""
    request.send_response(200)
    request.send_header("Content-Type", "video/mp2t")
    request.end_headers()
    request.wfile.write(data)
    request.wfile.flush()
    wait()
