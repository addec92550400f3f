"""The local page's server: what it answers, and what it refuses."""

import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_buckets import serving
from made_view import HEIGHT, WIDTH, ask, view_slide
from PIL import Image

from past_core.ingest.store import SlideStore
from past_core.ingest.write import SlideData, write_store
from past_core.slides import open_slide
from past_core.view.answers import ASSETS, Answers, BadRequestError, NoRouteError
from past_core.view.server import HEADERS, PortError, ViewServer


@pytest.fixture(scope="module")
def slide() -> SlideData:
    return view_slide()


@pytest.fixture(scope="module")
def path(slide: SlideData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(slide, tmp_path_factory.mktemp("view") / "s.zarr", block_size=400)


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[ViewServer]:
    with open_slide(path) as opened, ViewServer(opened) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def raw(server: ViewServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


# --- what it answers -----------------------------------------------------------------------


def test_the_page_and_its_files(server: ViewServer) -> None:
    status, body, headers = ask(server, "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    page = body.decode()
    for name, kind in ASSETS.items():
        status, body, headers = ask(server, f"/assets/{name}")
        assert (status, headers["Content-Type"]) == (200, kind)
        assert name == "openseadragon.LICENSE.txt" or f'"assets/{name}"' in page
    assert b"BSD" in body or b"Redistribution" in ask(server, "/assets/openseadragon.LICENSE.txt")[1]
    # Nothing comes from elsewhere, and nothing runs that is written into the page.
    assert "http" not in page
    assert "<script>" not in page
    assert "style=" not in page


def test_every_answer_has_the_safe_headers(server: ViewServer) -> None:
    for target in (
        "/",
        "/info.json",
        "/tiles/11/0_0.jpg",
        "/layers/qc/11/0_0.png",
        "/none",
        "/cells?x=a&y=0",
    ):
        _, _, headers = ask(server, target)
        assert {name: headers[name] for name in HEADERS} == HEADERS
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert not any(name.lower().startswith("access-control") for name in headers)
        assert "Python" not in headers["Server"]


def test_what_the_page_knows_from_the_start(server: ViewServer, slide: SlideData) -> None:
    info = json.loads(ask(server, "/info.json")[1])
    assert (info["name"], info["width"], info["height"], info["mpp"]) == ("seen", WIDTH, HEIGHT, 0.5)
    assert info["layers"] == ["cells", "nuclei", "qc", "expression"]
    empty = int((slide.table.X.sum(axis=1) == 0).sum())
    assert (info["cells"], info["passed"]) == (slide.table.n_obs, slide.table.n_obs - empty)
    assert [(entry["reason"], entry["cells"]) for entry in info["reasons"]] == [("no_genes", empty)]


def test_tiles(server: ViewServer, slide: SlideData) -> None:
    status, body, headers = ask(server, "/tiles/11/1_2.jpg?run=x")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert "immutable" in headers["Cache-Control"]
    shown = np.asarray(Image.open(io.BytesIO(body))).transpose(2, 0, 1)
    pixels = slide.image[:, 1024:, 512:1024]
    assert shown.shape == pixels.shape
    assert np.abs(shown.astype(int) - pixels).max() <= 8
    for target in ("/layers/cells/11/0_0.png", "/layers/qc/5/0_0.png", "/expression/G3/11/1_1.png"):
        status, body, headers = ask(server, target)
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert Image.open(io.BytesIO(body)).mode == "RGBA"


def test_a_click_gives_the_cell_around_it(server: ViewServer, slide: SlideData) -> None:
    number = 11
    name = slide.table.obs_names[number]
    point = slide.cell_boundaries.geometry.iloc[number].representative_point()
    status, body, headers = ask(server, f"/cells?x={point.x:.3f}&y={point.y:.3f}")
    cell = json.loads(body)["cell"]
    assert (status, cell["id"], headers["Cache-Control"]) == (200, name, "no-store")
    counts = slide.table.X.toarray()[number]
    best = sorted(range(len(counts)), key=lambda gene: (-counts[gene], gene))[:10]
    expected = [(f"G{g}", counts[g]) for g in best if counts[g]]
    assert [(gene["symbol"], gene["count"]) for gene in cell["top_genes"]] == expected
    assert json.loads(ask(server, f"/cell/{quote(name, safe='')}")[1])["cell"] == cell
    assert json.loads(ask(server, "/cells?x=2&y=2")[1]) == {"cell": None}
    assert json.loads(ask(server, "/cells?x=-999999999&y=999999999.5")[1]) == {"cell": None}


def test_genes(server: ViewServer) -> None:
    found = json.loads(ask(server, "/genes?q=g29")[1])["genes"]
    assert found == [{"id": "ENSG00000000029", "symbol": "G29"}]
    gene = json.loads(ask(server, "/expression/G29")[1])
    assert gene["id"] == "ENSG00000000029"
    assert 0 < gene["expressing"] <= gene["cells"]
    assert 0 < gene["top"] <= gene["highest"]


def test_head_gives_the_headers_alone(server: ViewServer) -> None:
    for target in ("/", "/info.json", "/tiles/11/0_0.jpg"):
        _, body, wanted = ask(server, target)
        status, nothing, headers = ask(server, target, method="HEAD")
        assert (status, nothing) == (200, b"")
        assert headers["Content-Length"] == wanted["Content-Length"] == str(len(body))


def test_a_bare_image_has_no_cells(tmp_path: Path) -> None:
    Image.fromarray(np.full((50, 70, 3), 200, np.uint8)).save(tmp_path / "a.png")
    answers = Answers(open_slide(tmp_path / "a.png"))
    assert answers.info["layers"] == []
    assert answers.info["mpp"] is None
    assert answers.answer("/tiles/7/0_0.jpg").type == "image/jpeg"
    for target in ("/cells?x=1&y=1", "/layers/cells/7/0_0.png", "/genes?q=", "/cell/a"):
        with pytest.raises(NoRouteError):
            answers.answer(target)


@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_a_store_behind_a_url(path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(path.parent.parent) as bucket:
        monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEYOFTEST")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        base = "s3:/" if scheme == "s3" else bucket.url
        far = Answers(open_slide(f"{base}/{path.parent.name}/{path.name}"))
        near = Answers(open_slide(path))
        for target in (
            "/tiles/11/0_0.jpg",
            "/layers/nuclei/11/0_0.png",
            "/cells?x=70&y=70",
            "/expression/G3",
        ):
            assert far.answer(target).body == near.answer(target).body
        assert far.info | {"run": ""} == near.info | {"run": ""}


# --- what it refuses -----------------------------------------------------------------------

OUTSIDE = [
    "/../../../../../../etc/passwd",
    "/assets/../../../../../../../../../../etc/passwd",
    "/assets/%2e%2e/%2e%2e/answers.py",
    "/assets/..%2f..%2fanswers.py",
    "/assets/..%5c..%5canswers.py",
    "/assets/..\\..\\answers.py",
    "/assets/%252e%252e%252fanswers.py",
    "/assets//etc/passwd",
    "/assets/%2fetc%2fpasswd",
    "/assets/index.html",
    "/assets/NOTICE.md",
    "/assets/",
    "/assets",
    "/assets/view.js/",
    "/assets/view.js%00.css",
    "/etc/passwd",
    "//etc/passwd",
    "/file:///etc/passwd",
    "/zarr.json",
    "/images/he/s0/zarr.json",
    "/tables/cells/zarr.json",
    "/tiles/11/../../../zarr.json",
    "/tiles/11/0_0.jpg/../../../../etc/passwd",
    "/tiles/11/..%2f0_0.jpg",
    "/cell/../../etc/passwd",
    "/cell/..%2f..%2fetc%2fpasswd",
    "/expression/..%2f..%2fzarr.json",
    "/layers/expression/11/0_0.png",
    "/layers/__class__/11/0_0.png",
    "/favicon.ico",
]


@pytest.mark.parametrize("target", OUTSIDE)
def test_nothing_outside_the_slide_is_served(server: ViewServer, target: str) -> None:
    status, body, headers = ask(server, target)
    assert status in (400, 404)
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert b"root:" not in body
    assert b"node_type" not in body
    assert len(body) < 300


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("/tiles/x/0_0.jpg", 400, "level should be a whole number"),
        ("/tiles/-1/0_0.jpg", 400, "level should be a whole number"),
        ("/tiles/1e3/0_0.jpg", 400, "level should be a whole number"),
        (f"/tiles/{'9' * 400}/0_0.jpg", 400, "up to nine digits"),
        ("/tiles/999999999/0_0.jpg", 404, "this slide has levels 0 to 11"),
        ("/tiles/11/999999999_0.jpg", 404, "it has 3 x 3 tiles"),
        ("/tiles/11/-1_0.jpg", 400, "COLUMN_ROW.jpg"),
        ("/tiles/11/0_0.png", 400, "COLUMN_ROW.jpg"),
        ("/tiles/11/٣_0.jpg", 400, "COLUMN_ROW.jpg"),
        ("/layers/cells/11/0_0.jpg", 400, "COLUMN_ROW.png"),
        ("/layers/cells/12/0_0.png", 404, "levels 0 to 11"),
        ("/expression/NOGENE/11/0_0.png", 404, "no gene 'NOGENE'"),
        ("/cell/nobody", 404, "no cell 'nobody'"),
        ("/cells", 400, "x should be given once"),
        ("/cells?x=1", 400, "y should be given once"),
        ("/cells?x=1&x=2&y=1", 400, "x should be given once"),
        ("/cells?x=nan&y=1", 400, "decimal number"),
        ("/cells?x=inf&y=1", 400, "decimal number"),
        ("/cells?x=1e300&y=1", 400, "decimal number"),
        (f"/cells?x={'1' * 1500}&y=1", 400, "decimal number"),
        (f"/genes?q={'a' * 5000}", 400, "not too long"),
        ("/genes?" + "&".join(f"q{k}=1" for k in range(50)), 400, "too many parameters"),
        ("/cell/%ff%fe", 400, "not valid UTF-8"),
        ("/cell/a%00b", 400, "control characters"),
        ("/cell/a%0d%0aSet-Cookie:%20x", 400, "control characters"),
        ("info.json", 400, "begins with /"),
        ("*", 400, "begins with /"),
        ("/nowhere", 404, "nothing is served there"),
    ],
)
def test_bad_requests_are_told_in_words(server: ViewServer, target: str, status: int, message: str) -> None:
    target = target if target.isascii() else quote(target)
    found, body, headers = ask(server, target)
    assert (found, headers["Content-Type"]) == (status, "text/plain; charset=utf-8")
    assert message in body.decode()


@given(
    st.text(max_size=60), st.sampled_from(["/", "/assets/", "/tiles/", "/cell/", "/cells?", "/expression/"])
)
def test_any_other_address_is_refused_by_name(path: Path, text: str, start: str) -> None:
    answers = _answers(path)
    try:
        answer = answers.answer(start + text)
    except (BadRequestError, LookupError):
        return
    assert answer.type in {"text/html; charset=utf-8", "application/json", *ASSETS.values()}


_OPENED: dict[Path, Answers] = {}


def _answers(path: Path) -> Answers:
    if path not in _OPENED:
        _OPENED[path] = Answers(open_slide(path))
    return _OPENED[path]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_it_only_reads(server: ViewServer, method: str) -> None:
    status, body, headers = ask(server, "/info.json", method=method, body=b"x" * 100)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert body == b"only GET and HEAD are answered\n"


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost", "0.0.0.0:{port}"]
)
def test_other_hosts_are_refused(server: ViewServer, name: str) -> None:
    for target in ("/", "/info.json", "/tiles/11/0_0.jpg"):
        status, body, _ = ask(server, target, Host=name.format(port=server.port))
        assert status == 403
        assert server.url in body.decode()


def test_its_own_names_are_answered(server: ViewServer) -> None:
    for name in ("127.0.0.1", "localhost"):
        assert ask(server, "/info.json", Host=f"{name}:{server.port}")[0] == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: localhost:PORT\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: localhost:PORT\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    ],
)
def test_malformed_requests(server: ViewServer, request_: bytes, status: int) -> None:
    reply = raw(server, request_.replace(b"PORT", str(server.port).encode()))
    head = reply.split(b"\r\n\r\n")[0]
    if b"HTTP/" in head:
        assert int(head.split()[1]) == status
        assert b"text/plain" in head
        assert b"nosniff" in head
    assert b"Traceback" not in reply
    assert ask(server, "/info.json")[0] == 200


def test_it_listens_on_loopback_alone(server: ViewServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.socket.family == socket.AF_INET
    addresses = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in addresses - {"127.0.0.1"}:
        with socket.socket() as other:
            other.settimeout(5)
            assert other.connect_ex((address, server.port)) != 0


def test_damage_is_told_and_the_server_goes_on(slide: SlideData, tmp_path: Path) -> None:
    store = SlideStore(write_store(slide, tmp_path / "s.zarr", block_size=400))
    (tmp_path / "s.zarr/shapes/nucleus_boundaries/shapes.parquet").write_bytes(b"PAR1")
    with open_slide(store.path) as opened, ViewServer(opened) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        status, body, _ = ask(server, "/layers/nuclei/11/0_0.png")
        assert status == 500
        assert "shapes.parquet cannot be read" in body.decode()
        assert ask(server, "/layers/cells/11/0_0.png")[0] == 200
        server.shutdown()
        thread.join()


def test_a_port_in_use_is_named(server: ViewServer, path: Path) -> None:
    with open_slide(path) as opened:
        with pytest.raises(PortError, match=f"port {server.port} is in use; give another --port"):
            ViewServer(opened, port=server.port)
        for port in (-1, 65536):
            with pytest.raises(PortError, match=f"port {port} does not exist"):
                ViewServer(opened, port=port)
