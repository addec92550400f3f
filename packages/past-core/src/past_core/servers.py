"""Connections to object stores: credentials, retries and timeouts of tensorstore's drivers, errors in words.

What the drivers read from the environment, and the endpoint that PAST adds:

* `s3://`: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_PROFILE` and the files of
  the AWS command line, else the machine's role, else nobody's; `AWS_NO_SIGN_REQUEST=1` is nobody's at once.
  `AWS_ENDPOINT_URL` (or `AWS_ENDPOINT_URL_S3`) names a server that is not Amazon's, such as MinIO, then
  `AWS_REGION` its region.
* `gs://`: `GOOGLE_APPLICATION_CREDENTIALS`, `gcloud auth application-default login`, the machine's account.
"""

import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from past_core.errors import PastError

if TYPE_CHECKING:
    import tensorstore as ts

METADATA_RETRIES = {"max_retries": 4, "initial_delay": "0.5s", "max_delay": "4s"}
"""A user waits: give up after about five seconds."""
PIXEL_RETRIES = {"max_retries": 12, "initial_delay": "0.5s", "max_delay": "16s"}
"""A training run waits: get over two minutes of trouble."""
# Without these a dead connection waits for minutes, or for ever. The first connection reads them.
_TIMEOUTS = {
    "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "10",
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "15",
    "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
}
_ENVIRONMENT = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_NO_SIGN_REQUEST",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
)
_TROUBLE = ("PERMISSION_DENIED", "UNAUTHENTICATED", "ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL")

_process: int | None = None
"""The process that first used tensorstore."""


class RemoteError(PastError, OSError):
    """Something behind a URL cannot be reached, may not be read, or is asked what it cannot do."""


def used_here() -> bool:
    """Notes that this process uses tensorstore; False in one forked after its parent did, where it aborts."""
    global _process  # noqa: PLW0603  (what it guards is a property of the process)
    if _process is None:
        _process = os.getpid()
    return _process == os.getpid()


def open_bucket(scheme: str, bucket: str, *, pixels: bool = False) -> "ts.KvStore":
    """A bucket's key-value store, opened once: it finds its region and credentials with its first request.

    Args:
        scheme: s3, gs, http or https.
        bucket: The bucket, or the host.
        pixels: For reads that a long run makes: more patient with a server in trouble.

    Raises:
        RemoteError: In a process forked after others were read, or a bucket's name that cannot be.
    """
    if not used_here():
        raise RemoteError(
            f"{scheme}://{bucket} cannot be read in a process forked after others were read; use threads, or "
            "start processes with 'spawn' (DataLoader: multiprocessing_context='spawn')"
        )
    environment = tuple(os.environ.get(name) for name in _ENVIRONMENT)
    try:
        return _open_bucket(scheme, bucket, environment, pixels)
    except ValueError as error:
        raise RemoteError(f"{scheme}://{bucket}: {_short(error)}") from None


@lru_cache(maxsize=64)
def _open_bucket(scheme: str, bucket: str, environment: tuple[str | None, ...], pixels: bool) -> "ts.KvStore":
    import tensorstore as ts

    for name, value in _TIMEOUTS.items():
        os.environ.setdefault(name, value)
    retries = PIXEL_RETRIES if pixels else METADATA_RETRIES
    if scheme == "gs":
        spec: dict[str, Any] = {"driver": "gcs", "bucket": bucket, "gcs_request_retries": retries}
    elif scheme == "s3":
        options = _s3_options(dict(zip(_ENVIRONMENT, environment, strict=True)))
        spec = {"driver": "s3", "bucket": bucket, "s3_request_retries": retries} | options
    else:
        spec = {"driver": "http", "base_url": f"{scheme}://{bucket}", "path": "/"}
        spec |= {"http_request_retries": retries}
    return ts.KvStore.open(spec).result()


def _s3_options(environment: dict[str, str | None]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    endpoint = environment["AWS_ENDPOINT_URL_S3"] or environment["AWS_ENDPOINT_URL"]
    if endpoint:
        # Amazon tells a bucket's region itself, so the variables count for other servers only.
        region = environment["AWS_REGION"] or environment["AWS_DEFAULT_REGION"] or "us-east-1"
        options |= {"endpoint": endpoint.rstrip("/"), "aws_region": region}
    if (environment["AWS_NO_SIGN_REQUEST"] or "").lower() in ("1", "true", "yes"):
        options["aws_credentials"] = {"type": "anonymous"}
    elif environment["AWS_ACCESS_KEY_ID"]:
        # The default chain would look into files first, and write to stderr about those that are absent.
        options["aws_credentials"] = {"type": "environment"}
    return options


def explain(error: Exception, url: str) -> RemoteError | None:
    """What tensorstore reports of a server, in words that help; None where the data are at fault.

    Args:
        error: What tensorstore raised.
        url: What was read.
    """
    text = str(error)
    scheme = url.split("://", 1)[0]
    status = text.split(":", 1)[0]
    answered = re.search(r"http_response_code='(\d+)'", text)
    code = answered[1] if answered else None
    if "NoSuchBucket" in text:
        bucket = url.split("/")[2]
        return RemoteError(f"{url}: there is no bucket {bucket!r}; check its name and AWS_ENDPOINT_URL")
    if status in ("PERMISSION_DENIED", "UNAUTHENTICATED") or code in ("401", "403"):
        how = {
            "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, of someone who may read "
            "and list it (S3 also answers so where nothing is there and listing is not allowed)",
            "gs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
        }.get(scheme, "plain HTTP is read without credentials only")
        return RemoteError(f"{url}: access denied (HTTP {code or 403}); {how}")
    curl = re.search(r"CURL error (.*?)(?: \[|$)", text)
    if curl:
        found = curl[1].rsplit(": ", 1)[-1].strip()
        advice = "is the network up, and AWS_ENDPOINT_URL right?" if scheme == "s3" else "is the network up?"
        return RemoteError(f"{url}: cannot be reached ({found}); {advice}")
    if code and code >= "500":
        return RemoteError(f"{url}: the server keeps failing (HTTP {code}); try again later")
    if status in _TROUBLE or (code and status != "NOT_FOUND"):
        return RemoteError(f"{url}: {_short(error)}")
    return None


def _short(error: Exception) -> str:
    """Its first line, without the places in tensorstore's sources and the server's whole answer."""
    return re.split(r" \[[a-z_]+='|\n", str(error))[0].strip()[:300] or type(error).__name__
