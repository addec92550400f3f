"""A sheet's slides on a Dask cluster, a task each."""

import json
import logging
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from past_core.errors import PastError
from past_core.ingest.outcome import Outcome, failed, ingest_row
from past_core.ingest.sheet import IngestRow

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

TIMEOUT_S = 8.0
"""Time in which the scheduler has to answer, and to have a worker."""
RETRIES = 2
PACKAGE = "past-core"


class DaskError(PastError, ConnectionError):
    """A cluster that cannot be reached, has no workers, or whose workers are of another make."""


def ingest_on_dask(
    rows: Sequence[IngestRow], address: str, *, overwrite: bool = False, skip_absent: bool = False
) -> Iterator[Outcome]:
    """Ingests a sheet's rows on a Dask cluster whose workers see the same files.

    A task whose worker is lost runs again elsewhere; its row fails when that has happened too often (the
    scheduler's `allowed-failures`).

    Args:
        rows: From `read_ingest_sheet`.
        address: Of the scheduler, as HOST:PORT or tcp://HOST:PORT, or the file that it writes.
        overwrite: Make complete stores again.
        skip_absent: Skip rows whose files are not there; else they fail.

    Yields:
        Outcomes, as they come.

    Raises:
        DaskError: No scheduler, no worker, or one without this version of past-core or of Dask.
    """
    from distributed import as_completed

    for row in (row for row in rows if row.request is None):
        yield ingest_row(row, skip_absent=skip_absent)
    with _connected(address) as client:
        _check_workers(client, address)
        waiting = {
            client.submit(_work, _absolute(row), overwrite=overwrite, retries=RETRIES, pure=False): row
            for row in rows
            if row.request is not None
        }
        try:
            for future in as_completed(list(waiting), loop=client.loop):
                row = waiting[future]
                error = future.exception()
                outcome = future.result() if error is None else failed(row, _lost(error))
                future.release()
                yield outcome
        finally:
            client.cancel([future for future in waiting if not future.done()], force=True)


def _work(row: IngestRow, *, overwrite: bool) -> Outcome:
    """Ingests a row on a worker, whose own Dask arrays are not sent around the cluster."""
    import dask

    with dask.config.set(scheduler="threads"):
        return ingest_row(row, overwrite=overwrite)


def _lost(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (
        f"Dask could not run it ({type(error).__name__}: {text}); nothing is left half-written: look into "
        "the workers' logs and run the sheet again"
    )


def _absolute(row: IngestRow) -> IngestRow:
    """The row with paths that mean the same in a worker's folder."""
    request = row.request
    assert request is not None
    spelled = {name: _spelled(value) for name, value in vars(request).items()}
    return replace(row, output=row.output.absolute(), request=replace(request, **spelled))


def _spelled(value: Any) -> Any:
    if isinstance(value, Path):
        return value.absolute()
    if isinstance(value, dict):
        return {name: _spelled(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_spelled(item) for item in value)
    return value


def _scheduler(address: str) -> str:
    """The address itself, or the one in the file that the scheduler writes."""
    file = Path(address)
    return str(json.loads(file.read_text(encoding="utf-8"))["address"]) if file.is_file() else address


@contextmanager
def _connected(address: str) -> Iterator["Client"]:
    """A client of the scheduler, in silence while it is tried."""
    from distributed import Client

    noise = logging.getLogger("distributed")
    level = noise.level
    noise.setLevel(logging.CRITICAL)
    try:
        try:
            client = Client(_scheduler(address), timeout=TIMEOUT_S, set_as_default=False)
        except Exception as error:  # Dask and its parts raise of all kinds, assertions among them
            text = " ".join(str(error).split())
            raise DaskError(
                f"no Dask scheduler answers at {address} within {TIMEOUT_S:g} s ({type(error).__name__}: "
                f"{text[:200]}); give its address, such as HOST:8786, or the file that `dask scheduler "
                "--scheduler-file` writes"
            ) from error
        with client:
            yield client
    finally:
        noise.setLevel(level)


def _check_workers(client: "Client", address: str) -> None:
    """Refuses a cluster that could not run a row.

    Raises:
        DaskError: No worker, or one of another version.
    """
    try:
        client.wait_for_workers(1, timeout=TIMEOUT_S)
    except TimeoutError as error:
        raise DaskError(
            f"the Dask scheduler at {address} has no worker; start some with `dask worker {address}`"
        ) from error
    # Asked of Dask itself, so that a worker without past-core answers too.
    versions = client.get_versions(packages=[PACKAGE])
    assert not isinstance(versions, Coroutine)  # the client is not an asynchronous one
    ours = _told(versions["client"])
    for worker, found in sorted(versions["workers"].items()):
        theirs = _told(found)
        for name, version in ours.items():
            if theirs[name] != version:
                raise DaskError(
                    f"the Dask worker {worker} has {name} {theirs[name] or 'not installed'}, this machine "
                    f"{version}; install the same versions on both (past-core with its extra `ingest`)"
                )


def _told(versions: Any) -> dict[str, str | None]:
    """The versions that must agree for a row to be sent and run."""
    packages = dict((versions or {}).get("packages") or {})
    python = str(packages.get("python") or "").split(".")
    return {"python": ".".join(python[:2]) or None} | {
        name: packages.get(name) for name in (PACKAGE, "distributed")
    }
