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
from past_core.checkpoint.folder import CONFIG, LIBRARY, MAX_JSON, VOCABULARY, WEIGHTS, is_export, read_json
from past_core.errors import PastError

logger = logging.getLogger(__name__)

PREFIX = "hf-hub:"
_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@(?P<revision>[^@\s]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
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


def is_past_id(name: str) -> bool:
    """Whether `hf-hub:OWNER/NAME[@REVISION]` is known to hold a model of PAST: it does in the cache.

    The same prefix names models of timm; nothing is asked of the hub to tell them apart.
    """
    match = _ID.fullmatch(name.removeprefix(PREFIX))
    if not name.startswith(PREFIX) or match is None:
        return False
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(match["repository"], CONFIG, revision=match["revision"])
    return isinstance(path, str) and is_export(Path(path).parent)


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

    pinned = _COMMIT.fullmatch(revision) is not None
    failure = None if pinned and _in_cache(repository, name, revision) else _ask(repository, name, revision)
    try:
        return Path(
            hf_hub_download(
                repository,
                name,
                revision=revision,
                library_name=LIBRARY,
                local_files_only=failure is not None,
            )
        )
    except (errors.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise _explain(failure or error, repository, name, revision) from error


def _in_cache(repository: str, name: str, revision: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, name, revision=revision), str)


def _ask(repository: str, name: str, revision: str) -> Exception | None:
    """Asks the hub for a file's size: None where it has the file, else why it cannot be had from there now.

    Once, other than `hf_hub_download`, which asks six times within half a minute before it says so.

    Raises:
        HubNotFoundError: the hub says that there is no such revision or file.
        CheckpointError: the file is larger than any of its kind.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    try:
        found = get_hf_file_metadata(hf_hub_url(repository, name, revision=revision), library_name=LIBRARY)
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise _explain(error, repository, name, revision) from error
    except (errors.HTTPError, OSError, ValueError, RuntimeError) as error:
        return error
    if name != WEIGHTS and (found.size or 0) > MAX_JSON:
        raise CheckpointError(
            f"{repository}: {name} has {found.size:,} bytes; that is no file of `past export`"
        )
    return None


def _explain(error: Exception, repository: str, name: str, revision: str) -> PastError:
    """What went wrong at the hub, with what to do about it."""
    from huggingface_hub import errors

    page, at = f"huggingface.co/{repository}", f"{repository} at {revision}"
    if isinstance(error, errors.GatedRepoError):
        return HubAccessError(
            f"{repository} is gated: ask for access on {page}, then log in with `hf auth login` or set "
            "HF_TOKEN; or get its files on another machine and give their folder"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubNotFoundError(
            f"{repository} has no revision {revision!r}; see {page}/commits/main, or leave the revision out"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubNotFoundError(
            f"no path {repository!r} here and no such repository on the hub, or a private one: check the "
            f"spelling on {page}, log in with `hf auth login` where it is private, or give an existing path"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return HubNotFoundError(
            f"{at} holds no PAST model: there is no {name}; expected the files of `past export`"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return HubAccessError(
            f"the hub refuses access to {at}: log in with `hf auth login`, or set HF_TOKEN to one that may "
            f"read {page}"
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        reason = "HF_HUB_OFFLINE is set"
    else:
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    return HubUnavailableError(
        f"no path {repository!r} here; {name} of {at} is not in the hub's cache and could not be fetched "
        f"({reason}): connect, unset HF_HUB_OFFLINE, or copy the folder from another machine (`hf download` "
        "there) and give its path"
    )
