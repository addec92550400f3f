"""Which systems each task runs here, which of the paper's are absent, and how to get them."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.task import Task, Wanted


@dataclass(frozen=True)
class Absent:
    """A system of the paper that has no measured row.

    Args:
        name: how the paper calls it.
        why: the reason.
        get: how to get what is missing.
        run: the command that then measures it.
    """

    name: str
    why: str
    get: str
    run: str


def absent(wanted: Wanted) -> Absent:
    """Why a system is not measured and what to do, the same on every machine.

    Raises:
        KeyError: an encoder that the registry does not know.
    """
    if not wanted.encoder:
        return Absent(wanted.name, wanted.why, wanted.get, wanted.run)
    from past_core.encoders.registry import IMAGE_ENCODERS

    entry = IMAGE_ENCODERS[wanted.encoder]
    ask = "request access at" if entry.gated else f"download {entry.file} from"
    why = "weights are gated" if entry.gated else "weights do not come with the packages"
    return Absent(
        wanted.name,
        f"{why} (licence: {entry.licence})",
        f"{ask} {entry.where}; `past encoders` says where to put {entry.file}",
        wanted.run,
    )


def show_systems(tasks: Sequence[Task]) -> None:
    """Prints tasks and systems: what runs on this machine, what is absent, how to get it."""
    from past_core.encoders import list_encoders

    known = {summary.name: summary for summary in list_encoders()}
    table = Table("task", "system", "here", title="python -m benchmarks NAME")
    for task in tasks:
        for number, system in enumerate(task.systems or ("see its module",)):
            table.add_row(task.name if number == 0 else "", system, "runs")
        for wanted in task.wanted:
            summary = known.get(wanted.encoder)
            state = (
                "absent" if summary is None or summary.weights is None else "weights here; not in this task"
            )
            table.add_row("", wanted.name, f"{state}: {wanted.run}")
        table.add_section()
    console = Console(width=140)
    console.print(table)
    needed = {wanted.encoder or wanted.name: wanted for task in tasks for wanted in task.wanted}
    for name, wanted in needed.items():
        summary = known.get(name)
        if summary is None:
            console.print(f"{wanted.name}: {wanted.why}. {wanted.get}", markup=False, highlight=False)
        elif summary.weights is None:
            console.print(f"{wanted.name}: {summary.how_to_get}", markup=False, highlight=False)
