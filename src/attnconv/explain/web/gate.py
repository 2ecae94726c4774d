"""What may be asked of the page's server: what the page itself asks, about files that were uploaded to it.

Gradio's app answers far more: it has some eighty routes, and takes whatever path or address a request names for a file
that was uploaded, unless its own `launch` has started it.
"""

import json
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import Any

READ = ("/", "/theme.css", "/favicon.ico", "/gradio_api/upload_progress")
READ_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
UPLOAD, EVENT = "/gradio_api/upload", "/gradio_api/run/predict"
LONGEST_EVENT = 2**16  # bytes: what is chosen, and the name of an upload


def gate(app: Any, *, uploads: Path, hosts: Collection[str] | None) -> Any:
    """The ASGI application ``app``, of which only the page's own requests are asked.

    Args:
        uploads: the folder in which the files lie that a request may name.
        hosts: names under which a browser may ask, None for any. Without them a page of another site could name its
            own host, have it point to this machine, and read the answers.
    """

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse

        answering = app
        if scope["type"] == "http":
            request, route = Request(scope, receive), (scope["method"], scope["path"])
            if hosts is not None and request.url.hostname not in hosts:
                answering = PlainTextResponse(f"this page is served as {' or '.join(sorted(hosts))} alone", 421)
            elif route == ("POST", EVENT):
                content = await _beginning(request.stream(), LONGEST_EVENT)
                receive = _again(content, receive)
                if not names_uploads_alone(content, uploads):
                    answering = PlainTextResponse("a request may name no file but one that was uploaded", 403)
            elif not asked_by_the_page(*route):
                answering = PlainTextResponse("not found", 404)
        await answering(scope, receive, send)

    return answer


def asked_by_the_page(method: str, path: str) -> bool:
    """Whether the page sends such a request, beside EVENT."""
    return (method, path) == ("POST", UPLOAD) or (method == "GET" and (path in READ or path.startswith(READ_BELOW)))


def names_uploads_alone(content: bytes, uploads: Path) -> bool:
    """Whether ``content`` is JSON in which every "path" lies in the folder ``uploads``."""
    try:
        named = [Path(path).resolve() for path in _paths(json.loads(content))]
    except (ValueError, TypeError, RecursionError):
        return False
    return all(path.is_relative_to(uploads.resolve()) for path in named)


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
