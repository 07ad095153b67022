"""A file server on 127.0.0.1 with the faults of those on the way to VOC: ``http://127.0.0.1:PORT/FAULT/FILE``."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """``files`` are what is served; ``asked`` what was: fault and first byte. A cut comes after ``most`` bytes."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], most: int = 3000):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.most = files, most
        self.asked: list[tuple[str, int]] = []

    def url(self, fault: str, file: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{fault}/{file}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        _, fault, name = self.path.split("/")
        data = self.server.files[name]
        begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) if self.headers["Range"] else 0
        self.server.asked.append((fault, begin))
        if fault in ("404", "500"):
            self.send_error(int(fault))
            return
        if fault == "page":  # what a host answers that has moved: a page, and all is well
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>This domain is for sale</html>")
            return
        data = {"wrong": bytes(len(data)), "short": data[:-1]}.get(fault, data)
        if begin and "norange" not in fault:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            data = data[begin:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: self.server.most] if "cut" in fault else data)
        if fault == "stuck":
            threading.Event().wait(60)

    def log_message(self, *_: object) -> None:
        """The tests' output is for failures."""


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Server]:
    with Server(files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
