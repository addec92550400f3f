"""`past demo`: synthetic data to try everything on."""

import secrets
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from past_core.errors import PastError


class DemoError(PastError, ValueError):
    """The options of `past demo` do not go together."""


class DemoExistsError(PastError, FileExistsError):
    """The output folder is in use."""


class Kind(StrEnum):
    """What is written."""

    bundle = "bundle"
    pairs = "pairs"
    cohort = "cohort"


PATIENTS = {Kind.bundle: 1, Kind.pairs: 6, Kind.cohort: 60}
SIZE_UM = {Kind.bundle: 625.0, Kind.pairs: 625.0, Kind.cohort: 256.0}
"""Defaults by what is written."""


HELP_PANELS = {
    "The tissue": ("patients", "patient", "cancer_type", "seed", "morphology", "size"),
    "Of one kind": ("stain", "version"),
}
COMPLETIONS = {
    "stain": ("er", "pr", "ki67"),
    "version": ("1.0", "2.0", "3.0", "4.0"),
}
EXAMPLES = {
    "past demo demo": "a Xenium bundle with its H&E",
    "past demo demo --patients 3": "three patients, in demo/P1 to demo/P3",
    "past demo pairs --kind pairs --stain er": "H&E with ER, for past stain and past hscore",
    "past demo cohort --kind cohort": "slides, genes and outcomes, for past survival",
}


def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    *,
    kind: Annotated[
        Kind,
        typer.Option(
            help="bundle: a Xenium bundle and its H&E. pairs: H&E with the IHC of the same section, a folder "
            "a patient. cohort: slides, genes and outcomes of patients with known hazard."
        ),
    ] = Kind.bundle,
    patients: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of patients; more than one bundle makes DIR/P1, DIR/P2, … "
            "[default: 1; of pairs 6, of a cohort 60]",
        ),
    ] = None,
    patient: Annotated[
        str | None, typer.Option(help="Name of the patient, for one alone. [default: P1]")
    ] = None,
    cancer_type: Annotated[
        str | None, typer.Option(help="breast, lung, colorectal or ovarian. [default: in turn]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the tissue.")] = 0,
    morphology: Annotated[
        float, typer.Option(min=0, max=1, help="How strongly the H&E shows each cell's state.")
    ] = 1.0,
    size: Annotated[
        float | None, typer.Option(help="Side of the section in µm. [default: 625; of a cohort 256]")
    ] = None,
    stain: Annotated[str, typer.Option(help="Of pairs: er, pr or ki67.")] = "er",
    version: Annotated[str, typer.Option(help="Version of the Xenium format, from 1.0 to 4.0.")] = "3.0",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in DIR.")] = False,
) -> None:
    """Makes synthetic data to try the rest on.

    A Xenium bundle with its H&E, alignment, keypoints and the truth behind it; with `--kind`, pairs of H&E
    and IHC, or a cohort for survival models. What to type next is printed.
    """
    from rich.console import Console

    wanted = PATIENTS[kind] if patients is None else patients
    side = SIZE_UM[kind] if size is None else size
    changes = {"patient": patient, "cancer_type": cancer_type}
    given = changes | {"stain": stain, "morphology": morphology, "version": version, "seed": seed}
    _check_options(kind, wanted, given)
    check_directory(directory, overwrite=overwrite)
    with _whole(directory) as partial, Console(stderr=True).status("") as status:
        if kind is Kind.bundle:
            made = _write_bundles(
                partial, wanted, changes | {"size_um": side}, seed, morphology, version, status.update
            )
            said = describe(directory, made)
        else:
            from past_core.commands import demo_data

            if kind is Kind.pairs:
                names = demo_data.write_pairs(
                    partial, stain=stain, patients=wanted, size_um=side, progress=status.update
                )
                said = describe_pairs(directory, stain, names[0])
            else:
                demo_data.write_cohort(
                    partial, patients=wanted, size_um=side, seed=seed, progress=status.update
                )
                said = describe_cohort(directory)
    typer.echo(said)


def _check_options(kind: Kind, patients: int, given: dict[str, object]) -> None:
    """Refuses what does not go together.

    Raises:
        DemoError: see there.
    """
    patient = given["patient"]
    if patient is not None and patients != 1:
        raise DemoError(f"--patient names one patient, but --patients is {patients}; give one of the two")
    if patient is not None and Path(str(patient)).name != patient:
        raise DemoError(f"--patient is {patient!r}; expected a name that can be part of a file name")
    unset: dict[str, object] = {"patient": None, "cancer_type": None, "morphology": 1.0, "version": "3.0"}
    if kind is Kind.bundle:
        unset = {"stain": "er"}
    else:
        unset |= {"seed": 0} if kind is Kind.pairs else {"stain": "er"}
    wrong = [name for name, default in unset.items() if given[name] != default]
    if wrong:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise DemoError(f"--kind {kind} takes no {options}; leave it out, or choose another --kind")


@contextmanager
def _whole(directory: Path) -> Iterator[Path]:
    """A folder to write, which becomes the directory when all went well and is removed otherwise."""
    partial = directory.resolve().with_name(f".{directory.resolve().name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        replace_directory(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_bundles(
    folder: Path,
    patients: int,
    changes: dict[str, object],
    seed: int,
    morphology: float,
    version: str,
    progress: Callable[[str], None],
) -> dict[str, str]:
    """Writes the bundles; returns cancer type by patient."""
    import dataclasses

    from past_core.synthetic.bundle import write_bundle
    from past_core.synthetic.expression import simulate_expression
    from past_core.synthetic.tissue import cohort, simulate_tissue

    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    drawn = cohort(patients, seed=seed, morphology=morphology)
    configs = [dataclasses.replace(config, **given) for config in drawn]
    for number, config in enumerate(configs, start=1):
        progress(f"{config.patient} ({config.cancer_type}), {number} of {patients} …")
        tissue = simulate_tissue(config)
        target = folder if patients == 1 else folder / config.patient
        write_bundle(tissue, simulate_expression(tissue), target, version=version, stack_planes=3)
    return {config.patient: config.cancer_type for config in configs}


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


def describe_pairs(directory: Path, stain: str, first: str) -> str:
    """What pairs were made and which commands to try next."""
    virtual = f"virtual/{first}.ome.tif --he {shlex.quote(str(directory / first / 'he.tif'))}"
    return "\n".join(
        [
            f"Wrote pairs of H&E and {stain.upper()} into {directory}. Next:",
            "",
            f"  past stain --sheet {shlex.quote(str(directory / 'slides.csv'))} --model demo -o virtual",
            f"  past hscore {virtual} --marker {stain} --preset qupath -o scores/{first}",
            "",
            "scores.csv holds the score of a reader who errs nowhere, truth_*.csv the DAB of every nucleus.",
        ]
    )


def describe_cohort(directory: Path) -> str:
    """What a cohort was made and which commands to try next."""
    slides, table, groups = (
        shlex.quote(str(directory / name)) for name in ("slides", "cohort.csv", "signatures.csv")
    )
    return "\n".join(
        [
            f"Wrote slides, genes and outcomes into {directory}. Next:",
            "",
            f"  past bags {slides} -e demo -o bags",
            f"  past survival {table} --groups {groups} --encoders demo=bags -o survival",
            "",
            "truth.csv holds every patient's true log hazard.",
        ]
    )
