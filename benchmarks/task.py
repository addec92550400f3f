"""What a benchmark declares at its top, and how the declarations are read without running its imports.

The leaderboard needs to know what a task is on, what its columns mean, which systems the table should hold
and which figures the small profile watches. A module of `benchmarks/tasks/` says so in `TASK = Task(...)`; a
module that runs on other data too gives one more, under any name. Declarations are made of literals and of
the names below, so that they are read from the source: `--list` and `--render` import neither torch nor the
packages.
"""

import ast
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

TASKS = Path(__file__).parent / "tasks"
GROUPS = ("pretraining", "expression", "virtual IHC", "survival", "ingest", "speed", "other")
"""Sections of the leaderboard, in order."""


class DeclarationError(ValueError):
    """A task's declaration that cannot be read."""


@dataclass(frozen=True)
class Metric:
    """One column of the report's table that is a measured figure.

    Args:
        column: its heading.
        better: which way is better; "zero" for controls and errors of either sign, "" where none is.
        unit: its unit, in words.
        interval: heading of the column with its interval, where there is one.
    """

    column: str
    better: Literal["higher", "lower", "zero", ""] = "higher"
    unit: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Plot:
    """A plot of dots and intervals of one metric, a row a system.

    Args:
        column: the metric's column.
        mark: a value to draw a line at, such as chance.
        log: whether the axis is logarithmic, as for ratios.
        where: leading cells that a row must have one of to be drawn; all rows without.
    """

    column: str
    mark: float | None = None
    log: bool = False
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """A system of the paper that the table should hold, measured or not.

    Args:
        name: how the paper calls it.
        label: what a row's system must contain to be this one; the name without.
        encoder: its name in `past_core.encoders.registry`, which knows where the weights are.
        why: why it is not measured, where it is no encoder of the registry.
        get: how to get what is missing, where it is no encoder of the registry.
        run: the command that measures it then.
    """

    name: str
    label: str = ""
    encoder: str = ""
    why: str = ""
    get: str = ""
    run: str = ""


@dataclass(frozen=True)
class Tracked:
    """A figure that profile `ci` holds to the committed one.

    Args:
        path: where it is. `("rows", *first cells of the row, column)`, or keys into the report, such as
            `("details", "padding", "ours")`; an item of a list is told by its number or by `"key=value"`.
        down: how far below the reference it may fall; None is as far as it likes.
        up: how far above it may rise.
        relative: whether both are shares of the reference instead of its unit.
    """

    path: tuple[str | int, ...]
    down: float | None
    up: float | None
    relative: bool = False

    @property
    def title(self) -> str:
        """The path in one line."""
        return " / ".join(str(key) for key in self.path if key not in ("rows", "details"))


PAPER_ENCODERS = ("uni", "conch", "ctranspath", "chief", "plip", "resnet50")
"""Those that the paper compares with, as the registry calls them."""
PROPER = {"uni": "UNI", "conch": "CONCH", "ctranspath": "CTransPath", "chief": "CHIEF", "plip": "PLIP"}
PROPER |= {"resnet50": "ResNet-50", "densenet121": "DenseNet-121"}


def encoders(*names: str, label: str, run: str) -> tuple[Wanted, ...]:
    """Public encoders that a table should hold.

    Args:
        names: as the registry calls them; those of the paper without.
        label: what the row's system contains, `{}` for the name.
        run: the command that measures one.
    """
    return tuple(
        Wanted(PROPER.get(name, name), label=label.format(name), encoder=name, run=run.format(name))
        for name in names or PAPER_ENCODERS
    )


def published(label: str, run: str) -> Wanted:
    """The authors' released model.

    Args:
        label: what the row's system contains.
        run: the command that measures it, of `published.safetensors`.
    """
    return Wanted(
        "PAST, the authors' weights",
        label=label,
        why="the weights do not come with the packages, and nothing is downloaded unasked",
        get="`checkpoint-context300.pth` of huggingface.co/Boyoungc/PAST, then "
        "`past import checkpoint-context300.pth -o published.safetensors`",
        run=run,
    )


def near(*path: str | int, within: float) -> Tracked:
    """A figure that stays within so much of the reference, in its own unit."""
    return Tracked(path, within, within)


def at_least(*path: str | int, share: float = 0.5) -> Tracked:
    """A figure, as the ratio of a speed, that does not fall below a share of the reference."""
    return Tracked(path, 1.0 - share, None, relative=True)


def at_most(*path: str | int, times: float = 2.0) -> Tracked:
    """A figure, as a memory, that does not rise above so many times the reference."""
    return Tracked(path, None, times - 1.0, relative=True)


def no_worse(*path: str | int, drop: float) -> Tracked:
    """A score that does not fall by more than so much; better is fine."""
    return Tracked(path, drop, None)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a benchmark is on, for the leaderboard and for the small profile.

    Args:
        title: heading.
        group: one of `GROUPS`.
        data: what it runs on.
        split: what is held out, or what is compared with what.
        systems: what it runs: cells of the column `system`.
        metrics: the measured columns.
        system: heading of the column that names the system.
        by: heading of the column that groups rows, such as the setting; "" where there is none.
        plot: the plot; None for none.
        wanted: systems of the paper.
        tracked: figures that ci watches.
        seeds: of what is drawn at random; a report's own `seeds` come first.
        note: what a reader must know to read the table.
        pictures: names of pictures (`benchmarks/pictures.py`) that show the task.
        command: what measures it, where it is not `python -m benchmarks NAME`.
        name: of the report; the module's, unless it has several.
        module: set when the declaration is read.
        question: the module's first line; set when the declaration is read.
    """

    title: str
    group: str
    data: str
    split: str
    systems: tuple[str, ...]
    metrics: tuple[Metric, ...]
    system: str = "system"
    by: str = ""
    plot: Plot | None = None
    wanted: tuple[Wanted, ...] = ()
    tracked: tuple[Tracked, ...] = ()
    seeds: tuple[int, ...] = ()
    note: str = ""
    pictures: tuple[str, ...] = ()
    command: str = ""
    name: str = ""
    module: str = ""
    question: str = ""

    def run_command(self) -> str:
        """What measures it."""
        return self.command or f"python -m benchmarks {self.module}"


VOCABULARY = {
    item.__name__: item
    for item in (Task, Metric, Plot, Wanted, encoders, published, near, at_least, at_most, no_worse)
}


def read_tasks(folder: Path = TASKS) -> list[Task]:
    """The declarations of every module, in the order of the leaderboard; see `read_module`."""
    found = [task for path in sorted(folder.glob("[!_]*.py")) for task in read_module(path)]
    return sorted(found, key=lambda task: (GROUPS.index(task.group), task.module, task.name))


def read_module(path: Path) -> list[Task]:
    """The declarations of one module; where it has none, what is known without one.

    Raises:
        DeclarationError: one that cannot be read.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module = path.stem.replace("_", "-")
    question = (ast.get_docstring(tree) or module).split("\n\n")[0].replace("\n", " ")
    known = {"module": module, "question": question}
    tasks = []
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        if not (isinstance(node.value.func, ast.Name) and node.value.func.id == "Task"):
            continue
        task = _made(node.value, path)
        if task.group not in GROUPS:
            expected = ", ".join(GROUPS)
            raise DeclarationError(f"{path.name}: group {task.group!r}; expected one of {expected}")
        tasks.append(replace(task, name=task.name or module, **known))
    bare: dict[str, Any] = {"title": module, "group": "other", "data": "", "split": ""}
    return tasks or [Task(systems=(), metrics=(), name=module, **bare, **known)]


def _made(call: ast.Call, path: Path) -> Task:
    names = VOCABULARY | {"__builtins__": {}}
    try:
        return eval(compile(ast.Expression(call), str(path), "eval"), names)
    except (NameError, TypeError, ValueError) as error:
        raise DeclarationError(
            f"{path.name}, line {call.lineno}: {error}; a declaration holds literals and "
            f"{', '.join(VOCABULARY)} only, for it is read without importing the module"
        ) from error
