"""Slides behind URLs: `s3://`, `gs://` and `http(s)://`, read through tensorstore's key-value stores.

A `RemotePath` answers what is asked of a `Path` that is only read, so that readers work on both. Object
stores have no folders: a folder is there when it holds zarr metadata. `past_core.servers` says what the
environment tells about credentials and endpoints.
"""

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from past_core.servers import RemoteError, explain, open_bucket

if TYPE_CHECKING:
    import tensorstore as ts

__all__ = ["Location", "RemoteError", "RemotePath", "locate", "open_kvstore", "remote_error", "require_local"]

SCHEMES = {"s3": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "https"}
ZARR_METADATA = ("zarr.json", ".zattrs", ".zgroup")
# `Path` joins the slashes of a URL: "s3:/bucket" is what commands hand over.
_URL = re.compile(r"^(?P<scheme>[A-Za-z][A-Za-z0-9+]+):/{1,3}(?P<rest>.*)$", re.DOTALL)


class RemotePath:
    """A place behind a URL, to be read like a `Path`.

    Args:
        url: `s3://BUCKET/KEY`, `gs://BUCKET/KEY` or `http(s)://HOST/PATH`; `Path(url)` is understood too.

    Raises:
        RemoteError: Another scheme, or no bucket.
    """

    def __init__(self, url: "str | Path | RemotePath") -> None:
        match = _URL.match(str(url))
        scheme = SCHEMES.get(match["scheme"].lower()) if match else None
        if match is None or scheme is None:
            raise RemoteError(f"{url}: not a URL that is read; expected s3://, gs://, http:// or https://")
        self.scheme = scheme
        bucket, _, key = match["rest"].partition("/")
        if not bucket:
            raise RemoteError(f"{url}: names no bucket or host; expected {scheme}://BUCKET/SLIDE.zarr")
        self.bucket, self.key = bucket, posixpath.normpath(f"/{key}").strip("/")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> "tuple[type[RemotePath], tuple[str]]":
        return RemotePath, (str(self),)

    def __truediv__(self, key: str) -> "RemotePath":
        return RemotePath(f"{self.scheme}://{self.bucket}/{posixpath.join(self.key, key)}")

    @property
    def name(self) -> str:
        """The last part, of a bucket its own name."""
        return posixpath.basename(self.key) or self.bucket

    @property
    def suffix(self) -> str:
        """The name's ending, as `.zarr`."""
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> "RemotePath":
        """The folder it lies in."""
        return RemotePath(f"{self.scheme}://{self.bucket}/{posixpath.dirname(self.key)}")

    @property
    def listable(self) -> bool:
        """Whether its keys can be listed; plain HTTP servers have no listing."""
        return self.scheme in ("s3", "gs")

    def resolve(self) -> "RemotePath":
        """Itself: `.` and `..` are resolved at once."""
        return self

    def is_relative_to(self, other: "RemotePath") -> bool:
        """Whether it lies in `other`."""
        return str(self) == str(other) or str(self).startswith(f"{other}/")

    def read_bytes(self) -> bytes:
        """The object's content.

        Raises:
            FileNotFoundError: There is no such object.
            RemoteError: It cannot be reached or may not be read.
        """
        found = self.wait(open_kvstore(self.parent).read(self.name))
        if found.state == "missing":
            raise FileNotFoundError(f"no such object: {self}")
        return found.value

    def read_text(self, encoding: str = "utf-8") -> str:
        """The object's content as text."""
        return self.read_bytes().decode(encoding)

    def is_file(self) -> bool:
        """Whether it is an object, without reading it."""
        store = open_kvstore(self.parent)
        if not self.listable:
            return self.wait(store.read(self.name, byte_range=slice(0, 1))).state != "missing"
        import tensorstore as ts

        return bool(self.wait(store.list(ts.KvStore.KeyRange(self.name, f"{self.name}\0"))))

    def is_dir(self) -> bool:
        """Whether it is a zarr group or array; other folders are not known as such."""
        return any((self / name).is_file() for name in ZARR_METADATA)

    def exists(self) -> bool:
        """Whether it is an object or a zarr group or array.

        Raises:
            RemoteError: It cannot be told, or there is no such bucket.
        """
        return self.is_dir() or self.is_file()

    def wait(self, future: "ts.Future") -> Any:
        """The future's result.

        Raises:
            RemoteError: Where tensorstore reports that the server cannot be reached or refuses.
        """
        try:
            return future.result()
        except (ValueError, NotImplementedError) as error:
            raise remote_error(error, self) or RemoteError(f"{self}: {error}") from None


Location = Path | RemotePath
"""Where a slide lies: a local path, or one behind a URL."""


def locate(where: "str | Path | RemotePath") -> Location:
    """A local path, or a `RemotePath` where a URL is given, also one that `Path` has robbed of a slash.

    Raises:
        RemoteError: A URL without a bucket, or of a scheme that is not read.
    """
    if isinstance(where, RemotePath):
        return where
    match = _URL.match(str(where))
    if match and match["scheme"].lower() == "file":
        return Path("/" + unquote(match["rest"]).removeprefix("localhost/"))
    if match and (match["scheme"].lower() in SCHEMES or "://" in str(where)):
        return RemotePath(where)
    return Path(where)


def require_local(where: "str | Path | RemotePath") -> Path:
    """A path to write to.

    Raises:
        RemoteError: A URL is given.
    """
    path = locate(where)
    if isinstance(path, RemotePath):
        raise RemoteError(
            f"{path}: PAST reads from URLs and writes to local disk only; write it there, then upload it "
            "(aws s3 cp --recursive, gcloud storage cp --recursive)"
        )
    return path


def open_kvstore(location: Location, *, pixels: bool = False) -> "ts.KvStore":
    """The key-value store of a folder; keys count from there.

    Args:
        location: The folder.
        pixels: For reads that a long run makes: more patient with a server in trouble.

    Raises:
        RemoteError: In a process forked after others were read, or a bucket's name that cannot be.
    """
    if isinstance(location, RemotePath):
        bucket = open_bucket(location.scheme, location.bucket, pixels=pixels)
        # The driver of HTTP escapes what must be.
        key = unquote(location.key) if location.scheme in ("http", "https") else location.key
        return bucket / f"{key}/" if key else bucket
    import tensorstore as ts

    # Durability comes from the writer's rename; syncing every chunk would take most of the time.
    sync = {"file_io_sync": False}
    return ts.KvStore.open({"driver": "file", "path": f"{location.resolve()}/", "context": sync}).result()


def remote_error(error: Exception, location: Location) -> RemoteError | None:
    """What tensorstore reports of a server, in words that help; None where the data are at fault."""
    return explain(error, str(location)) if isinstance(location, RemotePath) else None
