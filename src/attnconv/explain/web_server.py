"""The server of the page: four addresses, on this machine alone unless told otherwise.

A page of another site may not ask, neither under its own name, pointed to this machine, nor with requests of its own.
Nothing is written to a file, and no file is handed out.
"""

import contextlib
import errno
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attnconv import checks
from attnconv.explain.web_page import WebImage, WebPage

if TYPE_CHECKING:
    import uvicorn

HOST = "127.0.0.1"
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # all addresses of this machine, and one that it has
PORTS = range(7860, 7960)  # tried in turn if none is named
MAX_BYTES = 20 * 2**20  # of an image file
MAX_QUESTION = 2**12  # bytes
PAGE = Path(__file__).with_name("web_page.html")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


@contextlib.contextmanager
def web_server(
    make_page: Callable[[], WebPage], *, host: str = HOST, port: int | None = None, max_bytes: int = MAX_BYTES
) -> "Iterator[tuple[str, uvicorn.Server]]":
    """Yield the address that a browser opens, and the server.

    ``server.run()`` serves until ``server.should_exit`` is set, or until Ctrl-C or SIGTERM, which are raised once it
    has ended. Requests that come earlier wait.

    Args:
        make_page: makes the page, once.
        host: name or address of this machine; any but the default may let other machines in.
        port: 0 for any that is free; None: the first free one from 7860 on.
        max_bytes: of an image file.
    Raises:
        ValueError: the port is in use, there is no such host, or Starlette or uvicorn is not installed.
    """
    with listen(host, port) as listening:
        checks.require("starlette", extra="demo")
        uvicorn = checks.require("uvicorn", extra="demo")
        address, number = listening.getsockname()[:2]
        app = web_app(make_page(), max_bytes=max_bytes, hosts=names_of(host, address))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, ws="none"))
        serve = server.run
        server.run = lambda: serve(sockets=[listening])
        yield address_of(address, number), server


def address_of(address: str, port: int) -> str:
    """Return the address of the page for a browser on this machine."""
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
    with checks.explained(f"no host {host!r} to listen on", OSError, UnicodeError):
        family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    problem = ""
    for number in PORTS if port is None else [port]:
        try:
            return socket.create_server((str(address[0]), number), family=family)
        except OSError as error:
            problem = f"cannot listen on port {number} of {host}: {os.strerror(error.errno or 0)}"
            if error.errno != errno.EADDRINUSE:
                break
    raise checks.InputError(f"{problem}; name another --port, or none for the first that is free")


def web_app(page: WebPage, *, max_bytes: int, hosts: Collection[str] | None) -> Any:
    """Return the ASGI application of ``page``.

    Args:
        max_bytes: of an image file.
        hosts: names under which a browser may ask, in small letters, an IPv6 address in brackets; None for any.
            Without them a page of another site could have its own name point to this machine, and read the answers.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from starlette.routing import Route

    html = PAGE.read_text(encoding="utf-8")

    async def show(_: Request) -> Any:
        return HTMLResponse(html, headers=HEADERS)

    async def describe(_: Request) -> Any:
        return JSONResponse(page.describe())

    async def open_sample(request: Request) -> Any:
        number = request.path_params["number"]
        if number >= len(page.samples):
            return PlainTextResponse("not found", 404)
        return JSONResponse(await run_in_threadpool(page.open, page.samples[number]))

    async def open_file(request: Request) -> Any:
        content = np.frombuffer(await _body(request, max_bytes), dtype=np.uint8)
        name = request.query_params.get("name", "image")[:200]
        return JSONResponse(await run_in_threadpool(page.open, WebImage(name, content)))

    async def attend(request: Request) -> Any:
        body = await _body(request, MAX_QUESTION)
        try:
            question = checks.from_json(body)
            row, column = map(int, question["point"])
            layers = [range(len(one.layers))[i] for one, i in zip(page.networks, question["layers"], strict=True)]
            number, heads = int(question["image"]), bool(question["heads"])
        except (KeyError, TypeError, ValueError, IndexError):
            raise checks.InputError("a question names an image, a point, layers and heads") from None
        return JSONResponse(await run_in_threadpool(page.attend, number, (row, column), layers, heads=heads))

    async def refuse(_: Request, error: Exception) -> Any:
        return PlainTextResponse(f"{error}.", 422)

    routes = [
        Route("/", show),
        Route("/networks", describe),
        Route("/samples/{number:int}", open_sample, methods=["POST"]),
        Route("/images", open_file, methods=["POST"]),
        Route("/attention", attend, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={checks.InputError: refuse, ClientDisconnect: refuse})

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        answering = app
        if scope["type"] == "http" and (refused := _refusal(Request(scope), hosts)):
            answering = PlainTextResponse(refused[1], refused[0])
        await answering(scope, receive, send)

    return guarded


def _refusal(request: Any, hosts: Collection[str] | None) -> tuple[int, str] | None:
    """Return status and sentence for a request of another site; None for one of the page."""
    names = [name.lower() for name in request.headers.getlist("host")]
    if hosts is not None and (len(names) != 1 or re.sub(r":\d+$", "", names[0]) not in hosts):
        return 421, f"this page is served as {' or '.join(sorted(hosts))} alone"
    if any([origin.lower().partition("://")[2]] != names for origin in request.headers.getlist("origin")):
        return 403, "another site may not ask"
    return None


async def _body(request: Any, most: int) -> bytes:
    """Return the body of a request; InputError if it is larger than ``most`` bytes."""
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > most:
            raise checks.InputError(f"a request holds at most {most:,} bytes")
    return bytes(found)
