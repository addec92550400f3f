"""A hub on loopback, with the few requests that fetching files takes, and its cache laid out by hand."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FIRST, SECOND = "1" * 40, "2" * 40
"""Commits."""


@dataclass
class FakeHub:
    """Repositories by name: commits with files, and refs that name commits."""

    url: str = ""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    refs: dict[str, dict[str, str]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def add(self, repository: str, folder: Path, *, commit: str = FIRST, refs: tuple[str, ...] = ("main",)):
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.commits.setdefault(repository, {})[commit] = files
        self.refs.setdefault(repository, {}).update(dict.fromkeys(refs, commit))

    def fetched(self) -> list[str]:
        """Files whose content was sent."""
        return [path.rpartition("/")[2] for method, path in self.requests if method == "GET"]


def _answer(hub: FakeHub, path: str) -> tuple[int, dict[str, str], bytes]:
    repository, _, rest = path.strip("/").partition("/resolve/")
    revision, _, name = rest.partition("/")
    if repository in hub.refused:
        return 403, {}, b""
    if repository in hub.gated:
        return 403, {"X-Error-Code": "GatedRepo"}, b""
    if repository not in hub.commits:
        return 401, {"X-Error-Code": "RepoNotFound"}, b""
    commit = hub.refs[repository].get(revision, revision)
    if commit not in hub.commits[repository]:
        return 404, {"X-Error-Code": "RevisionNotFound"}, b""
    content = hub.commits[repository][commit].get(name)
    if content is None:
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
    return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, content


@contextmanager
def serving() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, *, body: bool) -> None:
            hub.requests.append((self.command, self.path))
            status, headers, content = _answer(hub, self.path)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fill_cache(cache: Path, repository: str, folder: Path, *, commit: str = FIRST, ref: str = "main") -> Path:
    """What a download leaves in the cache of huggingface_hub: blobs, a snapshot of links, and a ref."""
    base = cache / f"models--{repository.replace('/', '--')}"
    snapshot = base / "snapshots" / commit
    for part in (base / "blobs", base / "refs", snapshot):
        part.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        blob = base / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blob)
    (base / "refs" / ref).write_text(commit)
    return snapshot
