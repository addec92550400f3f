"""A loopback server that speaks what is read of S3, of Google Cloud Storage and of plain HTTP."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

S3 = "http://s3.amazonaws.com/doc/2006-03-01/"


class Buckets(ThreadingHTTPServer):
    """Serves the subfolders of a folder as buckets: by path-style S3, by GCS's JSON API, and as files.

    Attributes:
        url: Where it listens.
        page: Keys in one page of a listing.
        token: What a request must be authorised with, None for anybody.
        faults: Path suffix -> (status, number of times) to answer with instead.
        requests: Requests served so far by kind: get, head, list, and what became of them: missing, denied.
        paths: The paths asked for, in order.
        delay: Seconds before an answer.
        busiest: Most requests that were under way at once.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.page, self.token = 1000, None
        self.faults: dict[str, tuple[int, int]] = {}
        self.requests: Counter[str] = Counter()
        self.paths: list[str] = []
        self.delay, self.busiest, self._under_way = 0.0, 0, 0
        self.lock = threading.Lock()

    def forget(self) -> None:
        """Sets the records, faults and delay back."""
        self.requests.clear()
        self.paths.clear()
        self.faults.clear()
        self.page, self.token, self.delay, self.busiest = 1000, None, 0.0, 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Counts a request that is under way."""
        with self.lock:
            self._under_way += 1
            self.busiest = max(self.busiest, self._under_way)
        try:
            time.sleep(self.delay)
            yield
        finally:
            with self.lock:
                self._under_way -= 1

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no error."""


@contextmanager
def serving(folder: Path) -> Iterator[Buckets]:
    """A running server of `folder`."""
    server = Buckets(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Buckets

    def do_HEAD(self) -> None:
        with self.server.one():
            self._serve()

    def do_GET(self) -> None:
        with self.server.one():
            self._serve()

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        path = unquote(parts.path)
        listing = "list-type" in query or bool(re.fullmatch(r"/storage/v1/b/[^/]+/o", path))
        with self.server.lock:
            self.server.paths.append(path)
            self.server.requests["list" if listing else self.command.lower()] += 1
            fault = next((end for end in self.server.faults if path.endswith(end)), None)
            if fault is not None:
                status, left = self.server.faults[fault]
                if left:
                    self.server.faults[fault] = (status, left - 1)
                    self._answer(status, b"injected")
                    return
        if self.server.token is not None and self.server.token not in self.headers.get("Authorization", ""):
            self.server.requests["denied"] += 1
            self._answer(403, _error("AccessDenied"))
            return
        if path.startswith("/storage/v1/b/"):
            _, _, _, _, bucket, _, *key = path.split("/", 6)
        else:
            _, bucket, *key = path.split("/", 2)
        folder = self.server.folder / bucket
        if not bucket or not folder.is_dir():
            self.server.requests["missing"] += 1
            self._answer(404, _error("NoSuchBucket"))
        elif listing:
            self._list(folder, query, google=path.startswith("/storage"))
        elif not key or not key[0]:
            self._answer(200, b"", {"x-amz-bucket-region": "us-east-1"})
        else:
            self._object(folder / key[0])

    def _object(self, file: Path) -> None:
        if not file.is_file():
            self.server.requests["missing"] += 1
            self._answer(404, _error("NoSuchKey"))
            return
        body = file.read_bytes()
        headers = {"ETag": f'"{hash(body):x}"', "x-goog-generation": "7", "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and len(body):
            start = int(wanted[1])
            stop = min(int(wanted[2] or len(body) - 1) + 1, len(body))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
            self._answer(206, body[start:stop], headers)
            return
        self._answer(200, body, headers)

    def _list(self, folder: Path, query: dict[str, str], *, google: bool) -> None:
        keys = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        first, stop = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
        keys = [key for key in keys if key.startswith(query.get("prefix", "")) and first <= key < stop]
        start = int(query.get("pageToken" if google else "continuation-token", 0))
        after = start + self.server.page
        page = keys[start:after]
        more = after < len(keys)
        if google:
            answer: dict[str, object] = {"kind": "storage#objects", "items": [{"name": key} for key in page]}
            answer |= {"nextPageToken": str(after)} if more else {}
            self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
            return
        contents = "".join(f"<Contents><Key>{escape(key)}</Key><Size>1</Size></Contents>" for key in page)
        token = f"<NextContinuationToken>{after}</NextContinuationToken>" if more else ""
        self._answer(
            200,
            f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="{S3}">'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{contents}<Name>{folder.name}</Name>"
            f"<KeyCount>{len(page)}</KeyCount>{token}</ListBucketResult>".encode(),
            {"Content-Type": "application/xml"},
        )

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _error(code: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code></Error>'.encode()
