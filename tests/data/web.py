"""A web server on this machine that can cut, forget and change what it serves."""

import http.server
import re
import threading


class Web:
    """Serves the bytes in ``files`` by name, ``address`` before them; the fields below say how."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []  # path, Range
        self.cut_after: list[int] = []  # bytes after which the next answers break off
        self.status: list[int] = []  # of the next answers, instead of the file
        self.ranges = True  # whether parts can be asked for
        self.lengths = True  # whether answers say how long they are
        self.address = ""

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        data = self.files.get(request.path.lstrip("/"))
        if self.status or data is None:
            request.send_error(self.status.pop(0) if self.status else 404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.ranges else 0
        if start >= len(data) and start:
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(data)}")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if self.lengths:
            request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        body = data[start:]
        request.wfile.write(body[: self.cut_after.pop(0)] if self.cut_after else body)


class Serving:
    """Context manager: a ``Web`` with a server behind it."""

    def __enter__(self) -> Web:
        web = Web()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                web.answer(self)

            def log_message(self, format, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        web.address = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return web

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
