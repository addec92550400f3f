"""Repositories of the Hugging Face hub that hold a folder of `past export`.

Of a repository only the three files that loading needs are fetched, into the cache that huggingface_hub
shares between all programs (`HF_HOME`), and none of them can hold code. A revision is resolved to a commit
once, by the first file; the others are taken from that commit.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from past_core.checkpoint.errors import CheckpointError, CheckpointNotFoundError
from past_core.checkpoint.folder import CONFIG, LIBRARY, VOCABULARY, WEIGHTS, read_json
from past_core.errors import PastError

logger = logging.getLogger(__name__)

PREFIX = "hf-hub:"
_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@(?P<revision>[^@\s]+))?")
_FILES = {".ckpt", ".safetensors", ".pt", ".pth", ".bin", ".zarr", ".h5ad", ".csv", ".yaml", ".json"}


class HubNotFoundError(CheckpointNotFoundError):
    """The hub has no such repository or revision, or no PAST model in it."""


class HubAccessError(PastError, PermissionError):
    """The repository is gated and access was not granted."""


class HubUnavailableError(PastError, ConnectionError):
    """A file is not in the cache and the hub cannot be reached."""


@dataclass(frozen=True)
class HubId:
    """A repository and, where it was named with one, a revision."""

    repository: str
    revision: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """A fetched repository.

    Attributes:
        folder: its files at that commit, in the cache.
        repository: OWNER/NAME.
        commit: what was asked for, resolved to 40 hex digits.
    """

    folder: Path
    repository: str
    commit: str


def parse_hub_id(name: str) -> HubId | None:
    """`OWNER/NAME`, `OWNER/NAME@REVISION`, with `hf-hub:` or without; None where it cannot be one.

    Raises:
        HubNotFoundError: it begins with `hf-hub:` and is none.
    """
    match = _ID.fullmatch(name.removeprefix(PREFIX))
    if name.startswith(PREFIX):
        if match is None:
            raise HubNotFoundError(f"{name}: expected {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION")
    elif match is None or Path(match["repository"]).suffix.lower() in _FILES:
        return None  # a path, though nothing may be there
    return HubId(match["repository"], match["revision"])


def fetch_snapshot(hub_id: HubId, *, revision: str | None = None) -> Snapshot:
    """The files of a PAST model, from the cache where they are there and from the hub where not.

    A commit that is cached needs no network. A branch or tag is looked up on the hub; without network, or
    with `HF_HUB_OFFLINE=1`, the commit that it last stood for is taken from the cache.

    Args:
        hub_id: the repository.
        revision: branch, tag or commit; "main" where neither this nor the id names one.

    Raises:
        HubNotFoundError, HubAccessError, HubUnavailableError: see there.
        CheckpointError: two different revisions, or a damaged configuration.
    """
    repository = hub_id.repository
    if revision is not None and hub_id.revision not in (None, revision):
        raise CheckpointError(f"{repository}: revision {revision!r} was asked for, and @{hub_id.revision}")
    wanted = revision or hub_id.revision or "main"
    config = _fetch(repository, CONFIG, wanted)
    commit = config.parent.name
    # Known before the weights are fetched, which may be gigabytes.
    library = read_json(config).get("library_name")
    if library != LIBRARY:
        raise HubNotFoundError(
            f"{repository} holds no PAST model: library_name in its {CONFIG} is {library!r}, "
            f"expected {LIBRARY!r}"
        )
    for name in (VOCABULARY, WEIGHTS):
        _fetch(repository, name, commit)
    logger.info("%s (%s): commit %s", repository, wanted, commit)
    return Snapshot(config.parent, repository, commit)


def _fetch(repository: str, name: str, revision: str) -> Path:
    from huggingface_hub import errors, hf_hub_download

    page, at = f"huggingface.co/{repository}", f"{repository} at {revision}"
    try:
        return Path(hf_hub_download(repository, name, revision=revision, library_name=LIBRARY))
    except errors.GatedRepoError as error:
        raise HubAccessError(
            f"{repository} is gated: ask for access on {page}, then log in with `hf auth login` or set "
            "HF_TOKEN; or get its files on another machine and give their folder"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubNotFoundError(
            f"{repository} has no revision {revision!r}; see {page}/commits/main, or leave the revision out"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubNotFoundError(
            f"no path {repository!r} here and no such repository on the hub, or a private one: check the "
            f"spelling on {page}, log in with `hf auth login` where it is private, or give an existing path"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if _status(error.__cause__) in (401, 403):
            raise _refused(at, page) from error
        raise HubUnavailableError(
            f"{name} of {at} is not in the cache and the hub cannot be reached ({_reason(error)}): connect "
            "(and unset HF_HUB_OFFLINE), or copy the folder from another machine (`hf download` there) and "
            "give its path"
        ) from error
    except errors.EntryNotFoundError as error:
        raise HubNotFoundError(
            f"{at} holds no PAST model: there is no {name}; expected the files of `past export`"
        ) from error
    except (errors.HTTPError, OSError, ValueError, RuntimeError) as error:
        if _status(error) in (401, 403):
            raise _refused(at, page) from error
        raise HubUnavailableError(
            f"{name} of {at} could not be fetched ({_reason(error)}); try again, or give a path of its files"
        ) from error


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _refused(at: str, page: str) -> HubAccessError:
    return HubAccessError(
        f"the hub refuses access to {at}: log in with `hf auth login` or set HF_TOKEN to a token that may "
        f"read {page}"
    )


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause: huggingface_hub wraps what went wrong in long advice."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
