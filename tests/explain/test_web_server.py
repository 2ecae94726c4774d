"""The page's server: where it listens, whom it answers, and what it gives away."""

import http.client
import json
import os
import socket
import time
import urllib.parse
from pathlib import Path

import pytest
from explain.served import served
from explain.small import network, web_image
from PIL import Image

from attnconv.explain.web_server import HOST, address_of, listen, names_of


def test_ports():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 is in use: name another one, or none"):
            listen("127.0.0.1", port)
    with listen("127.0.0.1", None) as first, listen("127.0.0.1", None) as second:
        assert 7860 <= first.getsockname()[1] < second.getsockname()[1] < 7960
    with pytest.raises(ValueError, match=r"no host 'a\.\.b' to listen on: "):
        listen("a..b", None)
    with pytest.raises(ValueError, match=r"cannot listen on port 7860 of 192\.0\.2\.1: Cannot assign"):
        listen("192.0.2.1", 7860)


def test_addresses_to_open():
    assert HOST == "127.0.0.1"  # this machine alone, unless told otherwise
    assert address_of("0.0.0.0", 7860) == "http://127.0.0.1:7860"
    assert address_of("::", 7860) == "http://[::1]:7860"


@pytest.fixture(scope="module")
def asked():
    """Whom this process asks while it serves."""
    found, connect = [], socket.socket.connect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda self, to: (found.append(to), connect(self, to))[1])
        yield found


@pytest.fixture(scope="module")
def site(asked, tmp_path_factory):
    """The address of a page that takes uploads of up to 3,000 bytes, and the folder in which temporary files are."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        with served([network()], max_bytes=3000) as address:
            yield address, folder
        assert {path.name.partition("_")[0] for path in folder.iterdir()} <= {
            "torchinductor"
        }  # of torch, on its first use
        assert "GRADIO_TEMP_DIR" not in os.environ


def answer(site, method, path, **request):
    connection = http.client.HTTPConnection(urllib.parse.urlparse(site[0]).netloc)
    connection.request(method, path, **request)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_the_page_asks_no_other_host(site, asked):
    code, page = answer(site, "GET", "/")
    assert code == 200
    assert "What attention looks at" in page
    assert "fonts.googleapis" not in page + answer(site, "GET", "/theme.css")[1]
    assert {to[0] for to in asked if isinstance(to, tuple)} == {"127.0.0.1"}


def upload(site, content, **more):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + content + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x", **more}
    return answer(site, "POST", "/gradio_api/upload", body=body, headers=headers)


def test_a_large_upload_is_refused_by_the_server_too(site):
    assert upload(site, bytes(3001)) == (413, "File size exceeded maximum allowed size of 3000 bytes.")
    assert upload(site, bytes(2999))[0] == 200


def test_no_file_is_handed_out(site):
    code, stored = upload(site, b"mine")
    path = Path(stored.strip('[]"'))
    assert code == 200
    assert path.read_bytes() == b"mine"
    assert site[1] in path.parents
    for file in (path, "/etc/passwd", Path("pyproject.toml").absolute(), "http://127.0.0.1/"):
        for route in (f"file={file}", f"file%3D{file}", f"file/{file}", f"proxy={file}"):
            assert answer(site, "GET", f"/gradio_api/{route}") == (404, "not found")


def ask(site, path, *, meta=None, **headers):
    """What the page answers to the news that the file at ``path`` was uploaded."""
    file = {"path": str(path), "meta": {"_type": "gradio.FileData"} if meta is None else meta}
    body = json.dumps({"data": [file], "fn_index": 0, "session_hash": "mine"})
    return answer(
        site, "POST", "/gradio_api/run/predict", body=body, headers={"Content-Type": "application/json", **headers}
    )


def test_an_upload_is_shown_and_is_gone(site, photo):
    small = photo.with_suffix(".png")
    Image.new("RGB", (20, 20)).save(small)
    path = Path(json.loads(upload(site, small.read_bytes())[1])[0])
    code, shown = ask(site, path)
    assert code == 200
    assert "data:image/png" in shown
    assert not path.exists()
    code, shown = ask(site, path)  # as a second tab does, to which the same file was dropped
    assert code == 200
    assert "a.png is no longer there: drop it once more." in shown
    assert "data:image" not in shown
    assert str(path.parent) not in shown


def test_no_file_but_an_upload_can_be_named(site, photo, asked, monkeypatch):
    monkeypatch.chdir(photo.parent)
    uploaded = Path(json.loads(upload(site, b"mine")[1])[0])
    before = len(asked)
    for path in (
        photo,
        photo.name,
        uploaded.parent / ".." / ".." / ".." / photo.relative_to(photo.anchor),
        "/etc/passwd",
        "/etc/nothing",
        uploaded.parent,
        "",
        "http://127.0.0.2/a.png",
        "\0",
    ):
        refused = 403, "a request may name no file but one that was uploaded"
        assert ask(site, path) == refused
        assert ask(site, uploaded, meta={"a": [{"path": str(path)}]}) == refused
    assert {to[0] for to in asked[before:]} == {"127.0.0.1"}
    assert photo.exists()


@pytest.mark.parametrize(
    "body",
    [b"{", b"[" * 10_000, b"\xff", b'{"path": 3}', b'{"a": "%s"}' % (b" " * 70_000), iter([b'{"data": []}'])],
    ids=["cut off", "nested", "no text", "no path", "too long", "of no length"],
)
def test_what_is_no_question_of_the_page_is_refused(site, body):
    more = {} if isinstance(body, bytes) else {"encode_chunked": True}
    headers = {"Content-Type": "application/json"}
    assert answer(site, "POST", "/gradio_api/run/predict", body=body, headers=headers, **more)[0] == 403


@pytest.mark.parametrize(
    "route",
    ["POST run/take", "POST run/draw", "POST api/predict", "POST call/take", "POST queue/join", "GET queue/data",
     "GET info", "POST component_server", "POST vibe-edit", "GET dev/reload", "GET upload", "GET run/predict"],
)  # fmt: skip
def test_gradios_other_routes_are_shut(site, route):
    method, path = route.split()
    assert answer(site, method, f"/gradio_api/{path}") == (404, "not found")


def raw(site, *lines):
    """The status of the answer to a request that is written line by line."""
    host, port = urllib.parse.urlparse(site[0]).netloc.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.makefile("rb").readline().split()[1])


def test_a_foreign_name_of_this_machine_is_refused(site):
    netloc = urllib.parse.urlparse(site[0]).netloc
    port = netloc.partition(":")[2]
    for host in ("127.0.0.1", netloc, f"localhost:{port}", f"LocalHost:{port}", f"[::1]:{port}"):
        assert answer(site, "GET", "/", headers={"Host": host})[0] == 200
    code, text = answer(site, "GET", "/", headers={"Host": "evil.example"})
    assert (code, text) == (421, "this page is served as 127.0.0.1 or [::1] or localhost alone")
    for host in (
        f"evil.example:{port}", "127.0.0.1.evil.example", f"a{{b.evil.example:{port}", 'a"b.evil.example', "a`b",
        "evil.example:99999", "evil.example:abc", "evil.example/", "127.0.0.1@evil.example", "127.0.0.1:a", "[::1",
        "[::1].evil.example", "::1", "",
    ):  # fmt: skip
        assert raw(site, "GET / HTTP/1.1", f"Host: {host}", "Connection: close") in (400, 421), host
    assert raw(site, "GET / HTTP/1.0") == 421
    assert raw(site, "GET / HTTP/1.1", "Host: localhost", "Host: evil.example", "Connection: close") in (400, 421)


def test_another_site_may_not_ask(site):
    netloc = urllib.parse.urlparse(site[0]).netloc
    assert answer(site, "GET", "/", headers={"Origin": f"http://{netloc}"})[0] == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", f"{netloc}", ""):
        assert answer(site, "GET", "/", headers={"Origin": origin}) == (403, "another site may not ask"), origin
        assert upload(site, b"mine", Origin=origin)[0] == 403
    assert raw(site, "GET / HTTP/1.0", "Origin: http://evil.example") == 421


def test_other_machines_may_ask_by_any_name_where_they_may_ask_at_all():
    with served([network()], host="0.0.0.0") as address:
        host = {"Host": "lab.example:7860"}
        assert answer((address,), "GET", "/theme.css", headers=host)[0] == 200
        assert answer((address,), "GET", "/theme.css", headers={**host, "Origin": "http://lab.example:7860"})[0] == 200
        assert answer((address,), "GET", "/theme.css", headers={**host, "Origin": "http://evil.example"})[0] == 403


def test_names_are_in_small_letters_as_browsers_send_them():
    assert names_of("MyBox", "::1") == {"mybox", "[::1]", "127.0.0.1", "localhost"}
    assert names_of("0.0.0.0", "0.0.0.0") is None


def test_an_upload_is_as_large_as_a_file_may_be_and_says_so(site):
    limit = 413, "an upload must say its length, at most 3000 bytes"
    assert upload(site, bytes(80_000)) == limit
    assert answer(site, "POST", "/gradio_api/upload", body=iter([b"a", b"b"]), encode_chunked=True)[1] == limit[1]


def test_one_who_leaves_while_asking_is_no_error(site, capfd):
    host, port = urllib.parse.urlparse(site[0]).netloc.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /gradio_api/run/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\na".encode()
        )
        time.sleep(0.2)
    assert answer(site, "GET", "/theme.css")[0] == 200
    time.sleep(0.5)
    assert "Traceback" not in capfd.readouterr().err


def event(site, number, data, tab):
    """What the page's event of this number answers to a browser's tab."""
    body = json.dumps({"data": data, "fn_index": number, "session_hash": tab})
    code, text = answer(
        site, "POST", "/gradio_api/run/predict", body=body, headers={"Content-Type": "application/json"}
    )
    assert code == 200
    return json.loads(text)["data"]


def test_the_image_of_the_tab_that_was_seen_longest_ago_is_forgotten(photo, monkeypatch):
    monkeypatch.setattr("attnconv.explain.web_page.TABS", 2)
    with served([network()], [web_image(photo)]) as address:
        queries = {tab: event((address,), 2, [], tab)[3]["value"] for tab in "abc"}  # 2: as the page is loaded
        messages = {
            tab: event((address,), 4, [None, queries[tab], "layer3.0", "all"], tab)[0]  # 4: as the query moves
            for tab in "bca"
        }
    assert messages["b"] == messages["c"] == ""
    assert "no longer kept" in messages["a"]
