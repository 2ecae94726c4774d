"""The page's server: on this machine alone unless told otherwise, and asked no more than the page asks.

Gradio's own `launch` is not used. It answers a page of another site, which makes its own name point to this machine or
just sends requests; its eighty routes are open; it would fetch a file that a request names by a public address; what
it refuses is a traceback on the terminal; it does not say what is wrong with a port, tests itself through whatever
proxy the environment names, and leaves files behind.
"""

import contextlib
import errno
import ipaddress
import json
import logging
import os
import re
import socket
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnconv import checks

if TYPE_CHECKING:
    import gradio as gr
    import uvicorn
    from starlette.requests import Request

HOST = "127.0.0.1"
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # all addresses of this machine, and one that it has
PORTS = range(7860, 7960)  # tried in turn if none is named
MAX_BYTES = 20 * 2**20  # of an upload
# Of Gradio, which has no arguments for these; beside them GRADIO_TEMP_DIR.
SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}

# What the page asks.
READ = ("/", "/theme.css", "/favicon.ico", "/gradio_api/upload_progress")
READ_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
UPLOAD, EVENT = "/gradio_api/upload", "/gradio_api/run/predict"
LONGEST_EVENT = 2**16  # bytes: what is chosen, and the name of an upload
AROUND = 2**16  # bytes of an upload beside its file


@contextlib.contextmanager
def web_server(
    make_page: "Callable[[], gr.Blocks]", *, host: str = HOST, port: int | None = None, max_bytes: int = MAX_BYTES
) -> "Iterator[tuple[str, uvicorn.Server]]":
    """Yield the address that a browser opens, and the server; what was uploaded goes with the context.

    ``server.run()`` serves until ``server.should_exit`` is set, or until Ctrl-C or SIGTERM, which are raised once it
    has ended. Whoever asks before that waits.

    Args:
        make_page: makes the page, once.
        host: name or address of this machine; any but the default may let other machines in.
        port: 0 for any that is free; None: the first free one from 7860 on.
        max_bytes: of an upload.
    Raises:
        ValueError: the port is in use, there is no such host, or Gradio is not installed.
    """
    with listen(host, port) as listening, _gradio_settings() as uploads:
        checks.require("gradio", extra="demo")  # only now: it makes a folder when it is imported
        app = _app(make_page(), max_bytes)
        address, number = listening.getsockname()[:2]
        hosts = names_of(host, address)
        yield (
            address_of(address, number),
            _server(gate(app, uploads=uploads, max_bytes=max_bytes, hosts=hosts), listening),
        )


def address_of(address: str, port: int) -> str:
    """Return what a browser on this machine opens if the server listens there."""
    address = EVERYWHERE.get(address, address)
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def names_of(host: str, address: str) -> set[str] | None:
    """Return the names under which a browser may ask for the page; None for any, if other machines may ask."""
    if not ipaddress.ip_address(address).is_loopback:
        return None
    local = {host.lower(), address, "127.0.0.1", "::1", "localhost"}
    return {f"[{name}]" if ":" in name else name for name in local}


def listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens there; arguments and errors as `web_server`."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise checks.InputError(f"no host {host!r} to listen on: {getattr(error, 'strerror', None) or error}") from None
    for number in PORTS if port is None else [port]:
        try:
            return socket.create_server((str(address[0]), number), family=family)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise checks.InputError(f"cannot listen on port {number} of {host}: {error.strerror}") from None
    if port is None:
        raise checks.InputError(f"no free port from {PORTS[0]} to {PORTS[-1]} on {host}: name one")
    raise checks.InputError(f"port {port} of {host} is in use: name another one, or none for the first that is free")


@contextlib.contextmanager
def _gradio_settings() -> Iterator[Path]:
    """Turn Gradio's telemetry and history off, and yield a folder for uploads, removed at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="attnconv-web-") as folder:
        settings = {**SETTINGS, "GRADIO_TEMP_DIR": folder}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def _server(app: Any, listening: socket.socket) -> "uvicorn.Server":
    import uvicorn  # Gradio brings it

    class Server(uvicorn.Server):
        def run(self, sockets: list[socket.socket] | None = None) -> None:
            super().run(sockets=[listening])

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Open tabs hold connections that never end by themselves; that they are cut off is no error to be logged.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    return Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, ws="none"))


def _app(page: "gr.Blocks", max_bytes: int) -> Any:
    import fastapi
    import gradio as gr

    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Fonts of the reader's machine: any others would be fetched.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=max_bytes,
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme,
        css_paths=Path(__file__).with_name("web_page.css"),
    )
    return app


def gate(app: Any, *, uploads: Path, max_bytes: int, hosts: Collection[str] | None) -> Any:
    """Return the ASGI application ``app``, of which only the page's own requests are asked.

    Args:
        uploads: the folder in which the files lie that a request may name.
        max_bytes: of an uploaded file.
        hosts: names under which a browser may ask, in small letters, an address of IPv6 in brackets; None for any.
            Without them a page of another site could have its own name point to this machine, and read the answers.
    """
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import PlainTextResponse

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        answering = app
        if scope["type"] == "http":
            request = Request(scope, receive)
            refused = _refusal(request, max_bytes, hosts)
            if refused is None and request.method == "POST" and scope["path"] == EVENT:
                try:
                    content = await request.body()
                except ClientDisconnect:
                    return
                receive = _again(content, receive)
                if not names_uploads_alone(content, uploads):
                    refused = 403, "a request may name no file but one that was uploaded"
            if refused is not None:
                answering = PlainTextResponse(refused[1], refused[0])
        await answering(scope, receive, send)

    return answer


def _refusal(request: "Request", max_bytes: int, hosts: Collection[str] | None) -> tuple[int, str] | None:
    """Status and sentence for a request that the page would not send, as far as that shows before its body."""
    names, origins, lengths = (request.headers.getlist(name) for name in ("host", "origin", "content-length"))
    names = [name.lower() for name in names]
    length = int(lengths[0]) if len(lengths) == 1 and lengths[0].isdecimal() else -1
    method, path = request.method, request.scope["path"]
    if hosts is not None and (len(names) != 1 or re.sub(r":\d+$", "", names[0]) not in hosts):
        return 421, f"this page is served as {' or '.join(sorted(hosts))} alone"
    if any([origin.lower().partition("://")[2]] != names for origin in origins):  # in which a browser tells of it
        return 403, "another site may not ask"
    if (method, path) == ("POST", UPLOAD):
        within = 0 <= length <= max_bytes + AROUND
        return None if within else (413, f"an upload must say its length, at most {max_bytes} bytes")
    if (method, path) == ("POST", EVENT):
        return None if 0 <= length <= LONGEST_EVENT else (403, "what is asked is too long")
    if method == "GET" and (path in READ or path.startswith(READ_BELOW)):
        return None
    return 404, "not found"


def names_uploads_alone(content: bytes, uploads: Path) -> bool:
    """True if ``content`` is JSON in which every "path" is of a file in the folder ``uploads``, there still or not."""
    try:
        named = [Path(path).resolve() for path in _paths(json.loads(content))]
    except (ValueError, TypeError, RecursionError):
        return False
    return all(path.is_relative_to(uploads.resolve()) and not path.is_dir() for path in named)


def _paths(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from (inner for name, inner in value.items() if name == "path")
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _paths(inner)


def _again(content: bytes, receive: Any) -> Any:
    """Return what gives the body ``content``, which was read already, and then what ``receive`` does."""
    bodies = iter([{"type": "http.request", "body": content}])

    async def give() -> Any:
        return next(bodies, None) or await receive()

    return give
