"""The local page's server against a store with links out of it, and against other pages of the browser."""

import ipaddress
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_view import ask, view_slide

from past_core.errors import PastError
from past_core.ingest.write import write_store
from past_core.slides import open_slide
from past_core.view.server import ViewServer

SECRET = b"root:x:0:0: a line of another file of this machine"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(view_slide(), tmp_path_factory.mktemp("hostile-view") / "s.zarr", block_size=400)


@pytest.fixture
def server(path: Path) -> Iterator[ViewServer]:
    with open_slide(path) as opened, ViewServer(opened) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_it_listens_on_loopback_alone(server: ViewServer) -> None:
    host, port = server.socket.getsockname()[:2]
    assert ipaddress.ip_address(host).is_loopback
    others = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for other in others - {"127.0.0.1"}:
        if not ipaddress.ip_address(other).is_loopback:
            with pytest.raises(OSError):  # noqa: PT011  (refused, or no route)
                socket.create_connection((other, port), timeout=5).close()


@pytest.mark.parametrize(
    "target", ["http://evil.example/", "http://127.0.0.1/../zarr.json", "https://x/etc/passwd"]
)
def test_it_is_no_proxy(server: ViewServer, target: str) -> None:
    assert ask(server, target)[0] == 403  # by the name in the address
    status, body, _ = ask(server, target, Host=f"127.0.0.1:{server.port}")
    assert status == 400
    assert len(body) < 300


@pytest.mark.parametrize(
    "asked", ["bytes=0-9", "bytes=0-99999999999999", "bytes=5-1", f"bytes={'0-1,' * 5000}0-1"]
)
def test_a_range_changes_nothing(server: ViewServer, asked: str) -> None:
    assert ask(server, "/assets/view.css", Range=asked)[:2] == ask(server, "/assets/view.css")[:2]


@pytest.mark.parametrize("name", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::1]", ""])
def test_a_page_that_calls_itself_by_this_address_is_refused(server: ViewServer, name: str) -> None:
    status, body, _ = ask(server, "/info.json", Host=name)
    assert status == 403
    assert b"patient" not in body


@pytest.mark.parametrize(
    "part",
    [
        "zarr.json",
        "images/he/zarr.json",
        "images/he/s0/c",
        "shapes/cell_boundaries/shapes.parquet",
        "tables/cells/zarr.json",
    ],
)
def test_a_link_out_of_the_store_shows_nothing(part: str, path: Path, tmp_path: Path) -> None:
    store, secret = tmp_path / "s.zarr", tmp_path / "secret"
    secret.write_bytes(SECRET)
    shutil.copytree(path, store)
    place = store / part
    if place.is_dir():  # every chunk of the image
        for chunk in [file for file in place.rglob("*") if file.is_file()]:
            chunk.unlink()
            chunk.symlink_to(secret)
    else:
        place.unlink()
        place.symlink_to(secret)
    try:
        opened = open_slide(store)
    except PastError as error:
        assert "root:" not in str(error)  # noqa: PT017
        return
    with opened, ViewServer(opened) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        targets = (
            "/info.json",
            "/tiles/11/0_0.jpg",
            "/layers/cells/11/0_0.png",
            "/cells?x=100&y=100",
            "/secret",
        )
        answers = [ask(server, target) for target in targets]
        server.shutdown()
        thread.join()
    for status, body, _ in answers:
        assert b"root:" not in body
        assert status == 200 or len(body) < 1000
    assert any(status != 200 for status, *_ in answers)
