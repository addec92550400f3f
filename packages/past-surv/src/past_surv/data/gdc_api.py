"""Asks the GDC's API for the slides of patients."""

import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from past_core.errors import PastError
from past_surv.data.gdc import API_FIELDS, GdcError, GdcFile, hits_of, parse_file

logger = logging.getLogger(__name__)

API = "https://api.gdc.cancer.gov/files"
CASES = 400
"""Cases in one question, whose answer then fits one page or a few."""
PAGE = 1000
MAX_BYTES = 256 * 2**20
"""Largest answer that is read."""


class GdcUnavailableError(PastError, ConnectionError):
    """The GDC cannot be reached, or refuses."""


def fetch_files(
    cases: Sequence[str], *, api: str = API, timeout: float = 60.0, tries: int = 3, pause: float = 2.0
) -> list[GdcFile]:
    """All slides (SVS) of some patients.

    Args:
        cases: submitter ids, such as TCGA-XX-XXXX.
        api: address of the files' endpoint.
        timeout: seconds that one answer may take.
        tries: how often one question is asked where the server is at fault.
        pause: seconds before the second try; twice as long before each further one.

    Raises:
        GdcUnavailableError: no answer, or a refusal.
        GdcError: an answer that is none, or not all that it counts.
    """
    if not api.startswith(("https://", "http://")):
        raise GdcError(f"{api}: not an address of the GDC's API; expected https://HOST/files")
    files: list[GdcFile] = []
    for start in range(0, len(cases), CASES):
        part = list(cases[start : start + CASES])
        begin = 0
        while True:
            answer = _ask(api, _question(part, begin), timeout=timeout, tries=tries, pause=pause)
            hits = hits_of(answer, api)
            files += [parse_file(hit, f"{api}, file {begin + k}") for k, hit in enumerate(hits, 1)]
            begin += len(hits)
            total = _total(answer, api)
            if begin >= total:
                break
            if not hits:
                raise GdcError(f"{api}: {begin} of {total} files came; ask again later")
        logger.info("GDC: %d of %d cases asked, %d files", start + len(part), len(cases), len(files))
    return files


def _question(cases: list[str], begin: int) -> dict[str, Any]:
    def within(field: str, values: list[str]) -> dict[str, Any]:
        return {"op": "in", "content": {"field": field, "value": values}}

    return {
        "filters": {
            "op": "and",
            "content": [
                within("cases.submitter_id", cases),
                within("files.data_type", ["Slide Image"]),
                within("files.data_format", ["SVS"]),
            ],
        },
        "fields": ",".join(API_FIELDS),
        "format": "JSON",
        "size": PAGE,
        "from": begin,
        "sort": "file_id:asc",  # pages of one order
    }


def _total(answer: dict[str, Any], api: str) -> int:
    try:
        return int(answer["data"]["pagination"]["total"])
    except (KeyError, TypeError, ValueError) as error:
        raise GdcError(
            f"{api}: the answer does not say how many files there are (data.pagination)"
        ) from error


def _ask(api: str, question: dict[str, Any], *, timeout: float, tries: int, pause: float) -> Any:
    request = urllib.request.Request(  # noqa: S310  (checked by the caller)
        api,
        data=json.dumps(question).encode(),
        headers={"Content-Type": "application/json", "Accept": "application/json"},
    )
    for number in range(1, tries + 1):
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
                text = response.read(MAX_BYTES + 1)
            break
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code}: {error.read(300).decode(errors='replace').strip() or error.reason}"
            if error.code < 500 and error.code != 429:
                raise GdcUnavailableError(f"{api}: the GDC refuses ({problem})") from error
        except OSError as error:  # also urllib's own, and timeouts
            problem = str(getattr(error, "reason", error))
        if number == tries:
            raise GdcUnavailableError(
                f"{api}: no answer in {tries} tries ({problem}); try later, or give a listing with --files"
            )
        logger.warning("%s: %s; asks again", api, problem)
        time.sleep(pause * 2 ** (number - 1))
    if len(text) > MAX_BYTES:
        raise GdcError(f"{api}: an answer of more than {MAX_BYTES // 2**20} MiB; expected a page of files")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GdcError(f"{api}: the answer is no JSON; it begins with {text[:60]!r}") from error
