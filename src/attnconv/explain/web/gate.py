"""What may be asked of the page's server: what the page itself asks, about files that were uploaded to it.

Gradio's app answers far more: it has some eighty routes, and takes whatever path or address a request names for a file
that was uploaded, unless its own `launch` has started it.
"""

import json
import re
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

Headers = Iterable[tuple[bytes, bytes]]

READ = ("/", "/theme.css", "/favicon.ico", "/gradio_api/upload_progress")
READ_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
UPLOAD, EVENT = "/gradio_api/upload", "/gradio_api/run/predict"
LONGEST_EVENT = 2**16  # bytes: what is chosen, and the name of an upload
AROUND = 2**16  # bytes of an upload beside its file


def gate(app: Any, *, uploads: Path, max_bytes: int, hosts: Collection[str] | None) -> Any:
    """The ASGI application ``app``, of which only the page's own requests are asked.

    Args:
        uploads: the folder in which the files lie that a request may name.
        max_bytes: of an uploaded file.
        hosts: names under which a browser may ask, in small letters, an address of IPv6 in brackets; None for any.
            Without them a page of another site could have its own name point to this machine, and read the answers.
    """

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import ClientDisconnect, Request
        from starlette.responses import PlainTextResponse

        answering = app
        if scope["type"] == "http":
            headers, route = scope["headers"], (scope["method"], scope["path"])
            if hosts is not None and host_of(headers) not in hosts:
                answering = PlainTextResponse(f"this page is served as {' or '.join(sorted(hosts))} alone", 421)
            elif not from_the_page(headers):
                answering = PlainTextResponse("another site may not ask", 403)
            elif route == ("POST", UPLOAD):
                if not 0 <= length_of(headers) <= max_bytes + AROUND:
                    answering = PlainTextResponse(f"an upload must say its length, at most {max_bytes} bytes", 413)
            elif route == ("POST", EVENT):
                try:
                    content = await _beginning(Request(scope, receive).stream(), LONGEST_EVENT)
                except ClientDisconnect:
                    return
                receive = _again(content, receive)
                if not names_uploads_alone(content, uploads):
                    answering = PlainTextResponse("a request may name no file but one that was uploaded", 403)
            elif not asked_by_the_page(*route):
                answering = PlainTextResponse("not found", 404)
        await answering(scope, receive, send)

    return answer


def host_of(headers: Headers) -> str | None:
    """The name in the request's one Host header, without the port; None if there is not one."""
    given = _values(headers, b"host")
    return re.sub(r":\d+$", "", given[0].lower()) if len(given) == 1 else None


def from_the_page(headers: Headers) -> bool:
    """Whether no page of another site has sent the request: a browser tells of such in Origin."""
    hosts = [host.lower() for host in _values(headers, b"host")]
    return all([origin.lower().partition("://")[2]] == hosts for origin in _values(headers, b"origin"))


def length_of(headers: Headers) -> int:
    """Bytes of the request's body; -1 if it does not say."""
    given = _values(headers, b"content-length")
    return int(given[0]) if len(given) == 1 and given[0].isdecimal() else -1


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]


def asked_by_the_page(method: str, path: str) -> bool:
    """Whether the page sends such a request, beside UPLOAD and EVENT."""
    return method == "GET" and (path in READ or path.startswith(READ_BELOW))


def names_uploads_alone(content: bytes, uploads: Path) -> bool:
    """Whether ``content`` is JSON in which every "path" is of a file in the folder ``uploads``, there still or not."""
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


async def _beginning(parts: AsyncIterator[bytes], length: int) -> bytes:
    """Of a longer body somewhat more than ``length`` bytes, at which JSON that is no longer than that has ended."""
    content = b""
    async for part in parts:
        content += part
        if len(content) > length:
            break
    return content


def _again(content: bytes, receive: Any) -> Any:
    """What gives the body ``content``, which was read already, and then what ``receive`` does."""
    bodies = iter([{"type": "http.request", "body": content}])

    async def give() -> Any:
        return next(bodies, None) or await receive()

    return give
