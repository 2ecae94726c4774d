"""The page's server: on this machine alone unless told otherwise.

Gradio's own `launch` is not used: it does not say what is wrong with a port, tests itself through whatever proxy the
environment names, and leaves its files behind.
"""

import contextlib
import errno
import ipaddress
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnconv import checks
from attnconv.explain.web.gate import gate
from attnconv.explain.web.view import STYLE

if TYPE_CHECKING:
    import gradio as gr

HOST = "127.0.0.1"
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # all addresses of this machine, and one that it has
PORTS = range(7860, 7960)  # tried in turn if none is named
MAX_BYTES = 20 * 2**20  # of an upload
# Of Gradio, which has no arguments for these; beside them GRADIO_TEMP_DIR.
SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}


class WebServer:
    """A context in which a page can be served; what was uploaded goes with it.

    Args:
        make_page: makes the page, once, when the context is entered.
        host: name or address of this machine; any but the default may let other machines in.
        port: 0 for any that is free; None: the first free one from 7860 on.
        max_bytes: of an upload.
    Raises:
        ValueError: the port is in use, or there is no such host; on entering, Gradio is not installed.
    """

    def __init__(
        self,
        make_page: "Callable[[], gr.Blocks]",
        *,
        host: str = HOST,
        port: int | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._make_page, self._host, self._max_bytes = make_page, host, max_bytes
        self._socket = listen(host, port)
        self._kept = contextlib.ExitStack()
        self._kept.enter_context(self._socket)

    @property
    def address(self) -> str:
        """What a browser on this machine opens."""
        host, port = self._socket.getsockname()[:2]
        if host in EVERYWHERE:
            host = EVERYWHERE[host]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def names(self) -> set[str] | None:
        """Of this machine, under which a browser may ask for the page; None for any, if other machines may ask."""
        address = self._socket.getsockname()[0]
        if not ipaddress.ip_address(address).is_loopback:
            return None
        local = {self._host.lower(), address, "127.0.0.1", "::1", "localhost"}
        return {f"[{name}]" if ":" in name else name for name in local}

    def __enter__(self) -> "WebServer":
        with self._kept as kept:
            uploads = kept.enter_context(_gradio_settings())
            checks.require("gradio", extra="demo")  # only now: it makes a folder when it is imported
            app = _app(self._make_page(), self._max_bytes)
            self._server = _server(gate(app, uploads=uploads, max_bytes=self._max_bytes, hosts=self.names))
            self._kept = kept.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._kept.close()

    def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until `stop`, or until Ctrl-C or SIGTERM, which are raised once the server has ended.

        Args:
            ready: called when the page is there, and a signal ends the server as it should.
        """
        self._server.ready = ready
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Let `run` return, from another thread."""
        self._server.should_exit = True


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens there; arguments and errors as `WebServer`."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise checks.InputError(f"no host {host!r} to listen on: {getattr(error, 'strerror', None) or error}") from None
    ports = PORTS if port is None else [port]
    for number in ports:
        try:
            return socket.create_server((str(address[0]), number), family=family)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise checks.InputError(f"cannot listen on port {number} of {host}: {error.strerror}") from None
    if port is None:
        raise checks.InputError(f"no free port from {ports[0]} to {ports[-1]} on {host}: name one")
    raise checks.InputError(f"port {port} of {host} is in use: name another one, or none for the first that is free")


@contextlib.contextmanager
def _gradio_settings() -> Iterator[Path]:
    """In the block Gradio tells nobody of itself, and keeps uploads in a folder, which is given, and ends with it."""
    with tempfile.TemporaryDirectory(prefix="attnconv-web-") as folder:
        settings = {**SETTINGS, "GRADIO_TEMP_DIR": folder}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def _server(app: Any) -> Any:
    import uvicorn  # Gradio brings it

    class Server(uvicorn.Server):
        ready: Callable[[], None] | None = None

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started and self.ready is not None:
                self.ready()

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
        css=STYLE,
    )
    return app
