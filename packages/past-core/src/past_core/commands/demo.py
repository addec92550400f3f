"""`past demo`: a synthetic Xenium bundle to try everything on."""

import secrets
import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from past_core.errors import PastError


class DemoError(PastError, ValueError):
    """The options of `past demo` do not go together."""


class DemoExistsError(PastError, FileExistsError):
    """The output folder is in use."""


def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make the bundle in.")],
    *,
    patients: Annotated[
        int, typer.Option(min=1, help="Number of patients; more than one makes DIR/P1, DIR/P2, …")
    ] = 1,
    patient: Annotated[
        str | None, typer.Option(help="Name of the patient, for one alone. [default: P1]")
    ] = None,
    cancer_type: Annotated[
        str | None, typer.Option(help="breast, lung, colorectal or ovarian; by default they take turns.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the tissue.")] = 0,
    morphology: Annotated[
        float, typer.Option(min=0, max=1, help="How strongly the H&E shows each cell's state.")
    ] = 1.0,
    size: Annotated[float, typer.Option(help="Side of the section in µm.")] = 625.0,
    version: Annotated[str, typer.Option(help="Version of the Xenium format, from 1.0 to 4.0.")] = "3.0",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in DIR.")] = False,
) -> None:
    """Writes a synthetic Xenium bundle with its H&E, alignment, keypoints and the truth behind it."""
    import dataclasses

    from rich.console import Console

    from past_core.synthetic.bundle import write_bundle
    from past_core.synthetic.expression import simulate_expression
    from past_core.synthetic.tissue import cohort, simulate_tissue

    if patient is not None and patients != 1:
        raise DemoError(f"--patient names one patient, but --patients is {patients}; give one of the two")
    if patient is not None and Path(patient).name != patient:
        raise DemoError(f"--patient is {patient!r}; expected a name that can be part of a file name")
    changes = {"size_um": size} | {k: v for k, v in (("patient", patient), ("cancer_type", cancer_type)) if v}
    cohort_configs = cohort(patients, seed=seed, morphology=morphology)
    configs = [dataclasses.replace(config, **changes) for config in cohort_configs]
    check_directory(directory, overwrite=overwrite)

    console = Console(stderr=True)
    partial = directory.resolve().with_name(f".{directory.resolve().name}.{secrets.token_hex(4)}.partial")
    try:
        with console.status("") as status:
            for number, config in enumerate(configs, start=1):
                status.update(f"{config.patient} ({config.cancer_type}), {number} of {patients} …")
                tissue = simulate_tissue(config)
                target = partial if patients == 1 else partial / config.patient
                write_bundle(tissue, simulate_expression(tissue), target, version=version, stack_planes=3)
        replace_directory(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    typer.echo(describe(directory, {config.patient: config.cancer_type for config in configs}))


def check_directory(directory: Path, *, overwrite: bool) -> None:
    """Refuses an output folder before any work is done.

    Raises:
        DemoExistsError: It is a file, holds something, or is the working directory.
    """
    if directory.exists() and directory.resolve() == Path.cwd():
        raise DemoExistsError(f"{directory} is the working directory; name a folder in it")
    if directory.exists() and not directory.is_dir():
        raise DemoExistsError(f"{directory} is a file; name a folder")
    if not directory.exists() or not any(directory.iterdir()):
        return
    if not overwrite:
        raise DemoExistsError(f"{directory} is not empty; pass --overwrite to replace an earlier demo")
    if not any(directory.glob("truth.json")) and not any(directory.glob("*/truth.json")):
        raise DemoExistsError(f"{directory} holds something else than a demo; only demos are ever replaced")


def replace_directory(partial: Path, directory: Path) -> None:
    """Moves a complete folder to its name; an earlier one is put back if that fails."""
    directory = directory.resolve()
    retired = partial.with_suffix(".old")
    directory.parent.mkdir(parents=True, exist_ok=True)
    if directory.exists():
        directory.rename(retired)
    try:
        partial.rename(directory)
    except OSError:
        if retired.exists():
            retired.rename(directory)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def describe(directory: Path, kinds: dict[str, str]) -> str:
    """What was made and which commands to try next.

    Args:
        directory: The demo.
        kinds: Patient to cancer type.
    """
    bundles = {name: directory if len(kinds) == 1 else directory / name for name in kinds}
    lines = [f"Wrote {', '.join(map(str, bundles.values()))}. Next:", ""]
    for name, bundle in bundles.items():
        command = [
            "past",
            "ingest",
            bundle,
            "--he",
            bundle / f"{name}_he_image.ome.tif",
            "-o",
            f"{name}.zarr",
        ]
        command += ["--patient", name, "--cancer-type", kinds[name]]
        lines.append("  " + shlex.join(map(str, command)))
    stores = ",".join(f"{name}.zarr" for name in kinds)
    lines += [
        "  " + shlex.join(["past", "info", f"{next(iter(kinds))}.zarr"]),
        "  "
        + shlex.join(["lightning", "fit", "-c", "recipes/pretrain.yaml", "--data.slides", f"[{stores}]"]),
        "",
        "truth.json and truth.parquet hold the true transform, cell types and states.",
    ]
    return "\n".join(lines)
