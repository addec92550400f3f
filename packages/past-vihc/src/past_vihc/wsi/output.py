"""Where a virtual stain goes: which formats, and written whole or not at all."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from past_core.atomic import OutputWriteError, replacing, writer
from past_core.errors import PastError
from past_core.remote import require_local
from past_vihc.wsi.omezarr import write_omezarr
from past_vihc.wsi.tiff import TiffOptions, write_tiff

OME_TIFF, OME_ZARR = (".ome.tif", ".ome.tiff"), (".ome.zarr", ".zarr")
SUFFIXES = (*OME_TIFF, ".tif", ".tiff", *OME_ZARR)


class StainOutputError(PastError, ValueError):
    """An output that cannot be written there."""


class StainExistsError(PastError, FileExistsError):
    """Something is at the output path already."""


class StainWriteError(PastError, OSError):
    """An output that could not be written: no room, or no right to."""


@dataclass(frozen=True)
class Outputs:
    """What one staining writes.

    Attributes:
        main: a TIFF or an OME-Zarr; the work folder lies beside it.
        zarr: an OME-Zarr besides; None for none.
        tiff: how a TIFF is written; None where `main` is an OME-Zarr.
    """

    main: Path
    zarr: Path | None
    tiff: TiffOptions | None

    @property
    def paths(self) -> list[Path]:
        """All of them."""
        return [self.main] + ([] if self.zarr is None else [self.zarr])


def plan_outputs(
    output: str | Path,
    *,
    zarr: str | Path | None = None,
    layout: str | None = None,
    compression: str = "jpeg",
    quality: int = 95,
    overwrite: bool = False,
) -> Outputs:
    """Decides what is written, and refuses what could not be, before any work is done.

    Args:
        output: NAME.ome.tif, NAME.tif or NAME.ome.zarr.
        zarr: an OME-Zarr besides a TIFF.
        layout: of a TIFF, "ome" or "generic"; by default OME for .ome.tif, generic for .tif.
        compression: of a TIFF, "jpeg" or "deflate".
        quality: of JPEG.
        overwrite: replace what is there, once the new is complete.

    Raises:
        StainOutputError: another suffix, or options that contradict each other.
        StainExistsError: something is there, and is not to be, or cannot safely be, replaced.
        StainWriteError: the folder cannot be written.
        RemoteError: a URL.
        TiffOptionError: see `TiffOptions`.
    """
    main = require_local(output)
    if not main.name.lower().endswith(SUFFIXES):
        raise StainOutputError(
            f"{main}: a virtual stain is written as .ome.tif (QuPath, Bio-Formats), .tif (OpenSlide) or "
            ".ome.zarr; give the output one of these suffixes"
        )
    is_zarr = main.name.lower().endswith(OME_ZARR)
    other = None if zarr is None else require_local(zarr)
    if other is not None and not other.name.lower().endswith(OME_ZARR):
        raise StainOutputError(f"{other}: an OME-Zarr is written as .ome.zarr; give it that suffix")
    if other is not None and is_zarr:
        raise StainOutputError(f"{main} is an OME-Zarr already; leave --zarr out, or name a TIFF as output")
    is_ome = main.name.lower().endswith(OME_TIFF)
    if is_ome and layout == "generic":
        raise StainOutputError(
            f"{main}: the generic layout is no OME-TIFF; name it .tif, or leave --layout out"
        )
    tiff = None
    if not is_zarr:
        # Its own checks are of these very names.
        named: Any = (layout or ("ome" if is_ome else "generic"), compression, quality)
        tiff = TiffOptions(*named)
    found = Outputs(main, other, tiff)
    for path in found.paths:
        _check(path, overwrite=overwrite)
    return found


def _check(path: Path, *, overwrite: bool) -> None:
    if path.exists() or path.is_symlink():
        if not overwrite:
            raise StainExistsError(f"{path} exists already; choose another name or pass --overwrite")
        zarr = path.name.lower().endswith(OME_ZARR)
        if path.is_dir() != zarr or (zarr and not (path / "zarr.json").is_file()):
            raise StainExistsError(f"{path} is something else than a virtual stain and is not replaced")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.parent / f".{path.name}.{writer()}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StainWriteError(f"{path.parent}: cannot be written ({error}); choose another folder") from error


def write_outputs(
    outputs: Outputs,
    image: Any,
    record: Mapping[str, Any],
    *,
    mpp: float,
    work: Path,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes a finished image in every format asked for; each takes its name only when it is whole.

    Args:
        outputs: see `plan_outputs`.
        image: (3, H, W) uint8, sliced as `[:, y0:y1, x0:x1]`.
        record: see `describe`.
        mpp: µm per pixel.
        work: an existing folder for what is temporary.
        progress: called with tiles written since the last call, and tiles in all.

    Raises:
        StainWriteError: a full disk, for one; what was there is untouched.
    """
    scratch = work / f"levels.{writer()}"
    path = outputs.main
    try:
        with ExitStack() as stack:
            temporaries = {path: stack.enter_context(replacing(path)) for path in outputs.paths}
            for path, temporary in temporaries.items():
                if path == outputs.main and outputs.tiff is not None:
                    scratch.mkdir()
                    write_tiff(
                        image,
                        temporary,
                        record,
                        mpp=mpp,
                        scratch=scratch,
                        options=outputs.tiff,
                        progress=progress,
                    )
                else:
                    write_omezarr(image, temporary, record, mpp=mpp)
    except OutputWriteError as error:
        raise StainWriteError(f"{error}; the stained strips are kept for it") from error
    except PastError:
        raise
    except (OSError, ValueError) as error:  # tensorstore reports a full disk as ValueError
        raise StainWriteError(
            f"{path}: could not be written ({error}); nothing is left under that name that was not there "
            "before, and the stained strips are kept: make room and give the same command again"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
