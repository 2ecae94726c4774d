"""The page's server: where it listens, whom it answers, and what it gives away."""

import http.client
import json
import socket
import time
import urllib.parse
from pathlib import Path

import pytest
from explain.served import served
from explain.small import network, web_image

from attnconv.explain.web_server import HOST, address_of, listen, names_of

LIMIT = 3000  # bytes of a file


def test_ports():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=f"cannot listen on port {port} of 127.0.0.1: .*in use; name another --port"
        ):
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
    """The address of a page that takes files of up to LIMIT bytes; it leaves no temporary file."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        with served([network()], max_bytes=LIMIT) as address:
            yield address
        left = {path.name.partition("_")[0] for path in folder.iterdir()}
        assert left <= {"torchinductor"}  # of torch, on its first use


def answer(site, method, path, **request):
    connection = http.client.HTTPConnection(urllib.parse.urlparse(site).netloc)
    connection.request(method, path, **request)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_the_page_asks_no_other_host(site, asked):
    code, page = answer(site, "GET", "/")
    assert code == 200
    assert "Attention maps" in page
    assert "http" not in page
    assert {to[0] for to in asked if isinstance(to, tuple)} == {"127.0.0.1"}


def test_the_page_may_run_nothing_but_its_own_script(site):
    connection = http.client.HTTPConnection(urllib.parse.urlparse(site).netloc)
    connection.request("GET", "/")
    policy = connection.getresponse().headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "frame-ancestors 'none'" in policy


def test_an_image_is_opened_and_asked_about(site, photo):
    small = photo.with_suffix(".png")
    from PIL import Image

    Image.new("RGB", (20, 20)).save(small)
    code, text = answer(site, "POST", "/images?name=%3Cb%3E.png", body=small.read_bytes())
    opened = json.loads(text)
    assert (code, opened["name"], opened["size"]) == (200, "<b>.png", [20, 20])
    assert ask(site, image=opened["image"])[0] == 200
    code, text = ask(site, image=opened["image"] + 1)
    assert (code, text) == (422, "this image is no longer kept: drop it once more.")
    code, text = answer(site, "POST", "/images?name=a.png", body=b"no image")
    assert code == 422
    assert text.startswith("cannot decode image a.png: it is no image")


def ask(site, **changes):
    question = {"image": 1, "point": [5, 5], "layers": [0], "heads": False, **changes}
    return answer(site, "POST", "/attention", body=json.dumps(question))


@pytest.mark.parametrize(
    "body",
    [b"{", b"[" * 2000, b"\xff", b"[]", b'{"image": 1}', b'{"image": 1, "point": [1], "layers": [0], "heads": true}',
     b'{"image": 1, "point": [1, 2], "layers": [2], "heads": true}', b'{"a": "%s"}' % (b" " * 5000)],
    ids=["cut off", "nested", "no text", "a list", "no point", "half a point", "no such layer", "too long"],
)  # fmt: skip
def test_what_is_no_question_of_the_page_is_refused(site, body):
    code, text = answer(site, "POST", "/attention", body=body)
    assert code == 422
    assert "Traceback" not in text


def test_a_large_file_is_refused(site):
    limit = 422, "a request holds at most 3,000 bytes."
    assert answer(site, "POST", "/images", body=bytes(LIMIT + 1)) == limit
    parts = iter([bytes(2000), bytes(2000)])
    assert answer(site, "POST", "/images", body=parts, encode_chunked=True) == limit
    assert "it is no image" in answer(site, "POST", "/images", body=bytes(LIMIT))[1]


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/../pyproject.toml", "/file=/etc/passwd", "/samples/0", "/docs", "/openapi.json", "/static/a"],
)
def test_no_file_is_handed_out(site, path):
    assert answer(site, "GET", path)[0] in (404, 405)
    assert Path("pyproject.toml").exists()


def test_a_sample_that_is_not_there_is_not_found(site):
    assert answer(site, "POST", "/samples/0") == (404, "not found")


def raw(site, *lines):
    """The status of the answer to a request that is written line by line."""
    host, port = urllib.parse.urlparse(site).netloc.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.makefile("rb").readline().split()[1])


def test_a_foreign_name_of_this_machine_is_refused(site):
    netloc = urllib.parse.urlparse(site).netloc
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
    netloc = urllib.parse.urlparse(site).netloc
    assert answer(site, "GET", "/", headers={"Origin": f"http://{netloc}"})[0] == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", f"{netloc}", ""):
        assert answer(site, "GET", "/", headers={"Origin": origin}) == (403, "another site may not ask"), origin
        assert answer(site, "POST", "/images", body=b"mine", headers={"Origin": origin})[0] == 403
    assert raw(site, "GET / HTTP/1.0", "Origin: http://evil.example") == 421


def test_other_machines_may_ask_by_any_name_where_they_may_ask_at_all():
    with served([network()], host="0.0.0.0") as address:
        host = {"Host": "lab.example:7860"}
        assert answer(address, "GET", "/networks", headers=host)[0] == 200
        assert answer(address, "GET", "/networks", headers={**host, "Origin": "http://lab.example:7860"})[0] == 200
        assert answer(address, "GET", "/networks", headers={**host, "Origin": "http://evil.example"})[0] == 403


def test_names_are_in_small_letters_as_browsers_send_them():
    assert names_of("MyBox", "::1") == {"mybox", "[::1]", "127.0.0.1", "localhost"}
    assert names_of("0.0.0.0", "0.0.0.0") is None


def test_one_who_leaves_while_asking_is_no_error(site, capfd):
    host, port = urllib.parse.urlparse(site).netloc.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST /images HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\na".encode())
        time.sleep(0.2)
    assert answer(site, "GET", "/networks")[0] == 200
    time.sleep(0.5)
    assert "Traceback" not in capfd.readouterr().err


def test_samples_are_opened(photo):
    with served([network()], [web_image(photo)]) as address:
        assert json.loads(answer(address, "GET", "/networks")[1]) == {
            "networks": [{"title": "a network", "layers": ["layer2.0", "layer3.0"]}],
            "samples": ["photo.jpg"],
        }
        assert json.loads(answer(address, "POST", "/samples/0")[1])["name"] == "photo.jpg"
