"""Manifests of the GDC's slides: from listings, and from a server that answers as its API does."""

import json
import threading
from collections.abc import Iterator
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from past_core.cli import build_app
from past_surv.data import gdc_api
from past_surv.data.gdc import (
    GdcError,
    GdcNotFoundError,
    choose_files,
    diagnostic_slides,
    read_cases,
    read_listing,
    write_manifest,
)
from past_surv.data.gdc_api import GdcUnavailableError, fetch_files

CASES = ["TCGA-AA-0001", "TCGA-AA-0002", "TCGA-BB-0003"]
SLIDES = (
    "01Z-00-DX1", "01Z-00-DX2", "01A-01-TS1", "01A-01-BSA",
)  # fmt: skip


def hit(case: str, slide: str, **changed: object) -> dict[str, object]:
    name = f"{case}-{slide}.ABC-{case[-1]}.svs"
    return {
        "id": f"id-{case}-{slide}",
        "file_id": f"id-{case}-{slide}",
        "file_name": name,
        "md5sum": md5(name.encode(), usedforsecurity=False).hexdigest(),
        "file_size": 1000 + len(name),
        "state": "released",
        "cases": [{"submitter_id": case}],
    } | changed


HITS = [hit(case, slide) for case in CASES[:2] for slide in SLIDES] + [
    hit("TCGA-CC-0009", "01Z-00-DX1"),
    hit(CASES[0], "01Z-00-DX1", id="id-x", file_name=f"{CASES[0]}-01Z-00-DX1.xml"),
]


def answer(hits: list, total: int | None = None) -> dict[str, object]:
    pagination = {"count": len(hits), "total": len(hits) if total is None else total}
    return {"data": {"hits": hits, "pagination": pagination}, "warnings": {}}


def listing(folder: Path, kind: str) -> Path:
    path = folder / f"listing-{kind}"
    if kind == "answer.json":
        path.write_text(json.dumps(answer(HITS)))
    elif kind == "export.json":
        path.write_text(json.dumps(HITS))
    elif kind == "api.tsv":
        flat = [{k: v for k, v in h.items() if k != "cases"} for h in HITS]
        cases = [h["cases"][0]["submitter_id"] for h in HITS]
        pd.DataFrame(flat).assign(**{"cases.0.submitter_id": cases}).to_csv(path, sep="\t", index=False)
    elif kind == "manifest.txt":
        rows = [[h[k] for k in ("id", "file_name", "md5sum", "file_size", "state")] for h in HITS]
        names = ["id", "filename", "md5", "size", "state"]
        pd.DataFrame(rows, columns=names).to_csv(path, sep="\t", index=False)
    return path


@pytest.mark.parametrize("kind", ["answer.json", "export.json", "api.tsv", "manifest.txt"])
def test_all_listings_say_the_same(tmp_path: Path, kind: str) -> None:
    files, without = choose_files(read_listing(listing(tmp_path, kind)), CASES)
    assert [(file.cases, file.filename) for file in files] == [
        ((case,), f"{case}-01Z-00-DX{k}.ABC-{case[-1]}.svs") for case in CASES[:2] for k in (1, 2)
    ]
    assert without == ["TCGA-BB-0003"]


def test_the_manifest_is_the_clients(tmp_path: Path) -> None:
    files, _ = choose_files(read_listing(listing(tmp_path, "answer.json")), CASES, diagnostic="DX1")
    path = write_manifest(tmp_path / "new" / "manifest.txt", files)
    first = HITS[0]
    assert path.read_text().splitlines() == [
        "id\tfilename\tmd5\tsize\tstate",
        "\t".join(str(first[k]) for k in ("id", "file_name", "md5sum", "file_size", "state")),
        "\t".join(str(HITS[4][k]) for k in ("id", "file_name", "md5sum", "file_size", "state")),
    ]
    # What was written is a listing too.
    assert read_listing(path) == files
    with pytest.raises(GdcError, match="exists already"):
        write_manifest(path, files)


@pytest.mark.parametrize(("which", "count"), [("DX", 2), ("DX1", 1), ("all", 5)])
def test_diagnostic_slides(which: str, count: int) -> None:
    names = [f"TCGA-05-4244-{slide}.d4ff32cd-38cf.svs" for slide in SLIDES]
    assert len(diagnostic_slides([*names, "scan.svs"], which)) == count
    assert diagnostic_slides(["a/b/TCGA-05-4244-01Z-00-DX1"], which) == ["a/b/TCGA-05-4244-01Z-00-DX1"]
    with pytest.raises(GdcError, match="expected DX, DX1 or all"):
        diagnostic_slides(names, "TS")


def test_dx1_is_not_dx10() -> None:
    assert diagnostic_slides([f"TCGA-05-4244-01Z-00-DX{k}.x.svs" for k in (10, 12, "A")], "DX1") == []


@given(st.lists(st.sampled_from(SLIDES), min_size=1, max_size=6, unique=True))
def test_choices_contain_one_another(slides: list[str]) -> None:
    names = [f"TCGA-05-4244-{slide}.svs" for slide in slides]
    first, every, all_ = (set(diagnostic_slides(names, which)) for which in ("DX1", "DX", "all"))
    assert first <= every <= all_ == set(names)


def test_the_real_tables_name_diagnostic_slides(shared_data: Path) -> None:
    path = shared_data / "tcga" / "tcga_skcm_all_clean.csv.zip"
    cases = read_cases(path)
    assert (len(cases), len(set(cases))) == (230, 230)
    slides = pd.read_csv(path, usecols=["slide_id"])["slide_id"].tolist()
    assert diagnostic_slides(slides) == slides
    assert len(diagnostic_slides(slides, "DX1")) <= 230


def test_case_ids_of_files(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("TCGA-AA-0001\n\n TCGA-AA-0002 \nTCGA-AA-0001\n")
    assert read_cases(tmp_path / "ids.txt") == CASES[:2]
    pd.DataFrame({"case_id": CASES, "x": 1}).to_csv(tmp_path / "c.csv")
    assert read_cases(tmp_path / "c.csv") == CASES
    pd.DataFrame({"patient": CASES}).to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(GdcError, match="no column case_id; it has patient"):
        read_cases(tmp_path / "d.csv")
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(GdcError, match="no case ids"):
        read_cases(tmp_path / "none.txt")
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    with pytest.raises(GdcError, match="not a readable table"):
        read_cases(tmp_path / "bad.zip")
    with pytest.raises(GdcNotFoundError, match="no such file"):
        read_cases(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "damaged JSON"),
        ('{"data": {}}', r"no list of files in it \(data\.hits\)"),
        ('["x"]', "no list of files"),
        ("a,b\n1,2\n", "neither JSON nor TSV"),
        ("", "neither JSON nor TSV"),
        (
            json.dumps([hit(CASES[0], "01Z-00-DX1", md5sum=None)]),
            "file 1: no md5sum; ask the GDC for the fields",
        ),
        (json.dumps([hit(CASES[0], "01Z-00-DX1", md5sum="12")]), "md5sum '12'"),
        (json.dumps([hit(CASES[0], "01Z-00-DX1", file_size=-3)]), "file_size '-3'"),
        (json.dumps([hit(CASES[0], "01Z-00-DX1", file_name="a\tb.svs")]), "would break the manifest"),
    ],
)
def test_listings_that_cannot_be_used(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "x").write_text(content)
    with pytest.raises(GdcError, match=said):
        read_listing(tmp_path / "x")


def test_choices_that_leave_nothing(tmp_path: Path) -> None:
    files = read_listing(listing(tmp_path, "answer.json"))
    with pytest.raises(GdcError, match=r"none of 1 cases has a slide \(DX\).*such as TCGA-BB-0003"):
        choose_files(files, ["TCGA-BB-0003"])
    assert len(choose_files([*files, *files], CASES)[0]) == 4
    other = read_listing(listing(tmp_path, "answer.json"))[0].__class__(**vars(files[0]) | {"size": 3})
    with pytest.raises(GdcError, match="listed twice, with different"):
        choose_files([*files, other], CASES)


class Server:
    """Answers as the GDC's API does: filters, pages; faults on demand."""

    def __init__(self) -> None:
        self.questions: list[dict] = []
        self.faults: list[int | bytes] = []
        self.hits = list(HITS)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.questions.append(question)
                fault = outer.faults.pop(0) if outer.faults else None
                if isinstance(fault, int):
                    self.send_response(fault)
                    self.end_headers()
                    self.wfile.write(b'{"message": "something is wrong"}')
                    return
                self.send_response(200)
                self.end_headers()
                self.wfile.write(fault if fault is not None else json.dumps(outer.reply(question)).encode())

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/files"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reply(self, question: dict) -> dict:
        fields = {
            part["content"]["field"]: part["content"]["value"] for part in question["filters"]["content"]
        }
        assert fields["files.data_format"] == ["SVS"]
        cases = fields["cases.submitter_id"]
        found = [h for h in self.hits if h["cases"][0]["submitter_id"] in cases]
        return answer(found[question["from"] : question["from"] + question["size"]], total=len(found))


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize(("cases", "page"), [(400, 1000), (1, 1000), (2, 3), (1, 1)])
def test_the_api_is_asked_in_parts_and_pages(
    server: Server, monkeypatch: pytest.MonkeyPatch, cases: int, page: int
) -> None:
    monkeypatch.setattr(gdc_api, "CASES", cases)
    monkeypatch.setattr(gdc_api, "PAGE", page)
    files = fetch_files(CASES, api=server.url)
    assert sorted(file.id for file in files) == sorted(
        h["id"] for h in HITS if h["cases"][0]["submitter_id"] in CASES
    )
    assert all(len(q["filters"]["content"][0]["content"]["value"]) <= cases for q in server.questions)


def test_a_server_in_trouble_is_asked_again(server: Server) -> None:
    server.faults = [503, 500]
    assert len(fetch_files(CASES, api=server.url, pause=0.01)) == 9
    server.faults = [503, 500, 502]
    with pytest.raises(GdcUnavailableError, match=r"no answer in 3 tries \(HTTP 502.*something is wrong"):
        fetch_files(CASES, api=server.url, pause=0.01)


def test_answers_that_cannot_be_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.faults = [400]
    with pytest.raises(GdcUnavailableError, match=r"the GDC refuses \(HTTP 400"):
        fetch_files(CASES, api=server.url)
    assert len(server.questions) == 1  # what is refused is not asked again
    for fault, said in [
        (b"<html>", "no JSON; it begins with b'<html>'"),
        (b'{"data": {"hits": []}}', "does not say how many"),
        (json.dumps(answer([], total=7)).encode(), "0 of 7 files came"),
        (b"[1]", "no list of files"),
    ]:
        server.faults = [fault]
        with pytest.raises(GdcError, match=said):
            fetch_files(CASES, api=server.url)
    monkeypatch.setattr(gdc_api, "MAX_BYTES", 100)
    with pytest.raises(GdcError, match="an answer of more than"):
        fetch_files(CASES, api=server.url)
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(GdcUnavailableError, match="no answer in 2 tries"):
        fetch_files(CASES, api=server.url, tries=2, pause=0.01)
    with pytest.raises(GdcError, match="not an address"):
        fetch_files(CASES, api="file:///etc/passwd")


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), ["gdc", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_the_command(tmp_path: Path, server: Server) -> None:
    (tmp_path / "ids.txt").write_text("\n".join(CASES))
    offline, online = tmp_path / "offline.txt", tmp_path / "online.txt"
    code, said = run(tmp_path / "ids.txt", "-o", offline, "--files", listing(tmp_path, "api.tsv"))
    assert code == 0
    assert "4 slides of 2 cases" in said
    assert "1 cases have no such slide: TCGA-BB-0003" in said
    code, _ = run(tmp_path / "ids.txt", "-o", online, "--fetch", "--api", server.url)
    assert (code, online.read_text()) == (0, offline.read_text())
    run(
        tmp_path / "ids.txt",
        "-o",
        online,
        "--fetch",
        "--api",
        server.url,
        "--diagnostic",
        "all",
        "--overwrite",
    )
    assert len(online.read_text().splitlines()) == 9
    asked = len(server.questions)
    with pytest.raises(GdcError, match="exists already"):
        run(tmp_path / "ids.txt", "-o", online, "--fetch", "--api", server.url)
    assert len(server.questions) == asked
    for options in ([], ["--fetch", "--files", "x"], ["--files", "x", "--api", "y"]):
        with pytest.raises(ValueError, match=r"--fetch"):
            run(tmp_path / "ids.txt", "-o", tmp_path / "z.txt", *options)
