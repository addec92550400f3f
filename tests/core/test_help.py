"""What `past` says of itself: help, examples, suggestions, versions, completion of the shell."""

import re
import resource
import shlex
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.commands.verbs import ENCODERS, QUALITY, WORDS, encoder_names

APP = build_app()
VERBS = {str(info.name): info for info in APP.registered_commands}
COMMANDS = typer.main.get_command(APP).commands  # type: ignore[attr-defined]
MOST = 12
"""Options under one title."""


def shown(*words: str, width: int = 80) -> str:
    return CliRunner().invoke(APP, [*words, "--help"], env={"TERMINAL_WIDTH": str(width)}).output


def module(verb: str) -> object:
    return import_module(VERBS[verb].callback.__module__)  # type: ignore[union-attr]


def completed(line: str) -> list[str]:
    """What bash would offer after a line, whose last word is begun."""
    environment = {"_PAST_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    return CliRunner().invoke(APP, [], env=environment, prog_name="past").output.split()


def test_every_verb_fits_on_a_line_of_80_columns() -> None:
    text = shown()
    for verb in VERBS:
        line = re.search(rf"│ {verb} +(.*?) *│\n", text)
        assert line, verb
        assert line[1].endswith("."), f"{verb}: {line[1]}"
    assert len(VERBS) == 27


@pytest.mark.parametrize("verb", VERBS)
def test_help_reads_well_at_80_columns(verb: str) -> None:
    text = shown(verb)
    panels = re.findall(r"╭─ (.*?) ─+╮\n(.*?)╰─", text, re.S)
    assert panels
    for title, body in panels:
        options = [line for line in body.splitlines() if re.match(r"│ (\*  |   )?--", line)]
        assert len(options) <= MOST, f"{title} holds {len(options)} options"
        assert not any("…" in line[:40] for line in options), f"{title}: an option's name is cut off"
        # A type that is broken goes on in a line of its own without its opening bracket.
        assert not re.search(r"│ +[a-z0-9|]+>", body), f"{title}: choices are broken within a word"
    assert "by default" not in text, "defaults are written [default: ...]"
    assert not re.search(r"(?<![-_])\bum\b", text)
    assert "Examples:" in text


@pytest.mark.parametrize("verb", VERBS)
def test_examples_are_commands_that_the_verb_takes(verb: str) -> None:
    examples = module(verb).EXAMPLES  # type: ignore[attr-defined]
    assert examples
    for example, what in examples.items():
        words = shlex.split(example)
        assert words[:2] == ["past", verb]
        assert what
        COMMANDS[verb].make_context(verb, words[2:])  # raises where an option or an argument is wrong


@pytest.mark.parametrize("verb", VERBS)
def test_titles_and_completions_name_options_that_are_there(verb: str) -> None:
    names = {parameter.name for parameter in COMMANDS[verb].params}
    panels = getattr(module(verb), "HELP_PANELS", {})
    assert {name for panel in panels.values() for name in panel} <= names
    assert set(getattr(module(verb), "COMPLETIONS", {})) <= names
    taken = {option for parameter in COMMANDS[verb].params for option in parameter.opts}
    former = getattr(module(verb), "FORMER_NAMES", {})
    assert set(former.values()) <= taken
    assert not set(former) & taken


def test_a_word_that_is_completed_is_of_some_verb() -> None:
    assert set(WORDS) <= {parameter.name for command in COMMANDS.values() for parameter in command.params}


def test_one_thing_has_one_name() -> None:
    """Options that mean the same are called the same, with the same short form."""
    short = {"--output": "-o", "--encoder": "-e", "--jobs": "-j"}
    for verb, command in COMMANDS.items():
        for parameter in command.params:
            for long, letter in short.items():
                if long in parameter.opts:
                    assert letter in parameter.opts, f"past {verb} {long} has no {letter}"
        assert not {"--workers", "--scheduler", "--checkpoint", "--target"} & {
            option for parameter in command.params for option in parameter.opts
        }


def test_a_mistyped_verb_or_option_is_answered_with_the_nearest() -> None:
    runner = CliRunner()
    assert "'ingest'" in runner.invoke(APP, ["ingset"]).output
    assert "--device" in runner.invoke(APP, ["embed", "x.zarr", "--devise", "cpu"]).output
    assert runner.invoke(APP, ["ingset"]).exit_code == 2


def test_past_alone_shows_its_help() -> None:
    assert "Usage: past" in CliRunner().invoke(APP, []).output


def test_versions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    text = CliRunner().invoke(APP, ["--version"]).output
    version = (Path(__file__).resolve().parents[2] / "VERSION").read_text().strip()
    for package in ("past-core", "past-genex", "past-vihc", "past-surv"):
        assert f"{package} {version}" in text
    assert re.search(r"torch \d", text)
    from past_core import cli

    def absent(name: str) -> str:
        raise cli.PackageNotFoundError(name)

    monkeypatch.setattr(cli, "version", absent)
    assert "past-surv is not installed" in CliRunner().invoke(APP, ["--version"]).output


def test_a_former_name_is_taken_and_not_shown() -> None:
    for words in (["-c", "uni"], ["--checkpoint", "uni"], ["--checkpoint=uni"], ["-e", "uni"]):
        context = COMMANDS["embed"].make_context("embed", ["x.zarr", *words, "-o", "x.h5ad"])
        assert context.params["encoder"] == "uni"
    assert "--checkpoint" not in shown("embed")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("past em", {"embed"}),
        ("past embed --prec", {"--precision"}),
        ("past embed x.zarr --precision ", {"32", "bf16", "fp16"}),
        ("past embed x.zarr -e un", {"uni"}),
        ("past genex --encoders uni,res", {"uni,resnet50"}),
        ("past hscore x.tif --preset ihc", {"ihc4bc-er", "ihc4bc-pr", "ihc4bc-ki67"}),
        ("past hscore x.tif --marker k", {"ki67"}),
        ("past ingest B --qc min_c", {"min_counts="}),
        ("past qc S --set foc", {"focus=", "focus_z=", "focus_floor=", "focus_clear="}),
        ("past embed x.zarr -o nothing", set()),
    ],
)
def test_the_shell_completes(line: str, offered: set[str]) -> None:
    assert set(completed(line)) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_answers_fast_and_imports_nothing_heavy(shell: str) -> None:
    line = "past embed x.zarr --encoder u"
    environment = {
        "_PAST_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": "4",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    past = Path(sys.executable).with_name("past")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", past],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.split() == ["uni"] if shell != "zsh" else "uni" in done.stdout, done.stderr[-2000:]
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "past_core" in imported
    assert not imported & {"torch", "numpy", "pandas", "lightning", "scipy", "spatialdata"}
    # CPU seconds, not those of the clock: about 0.4 here; a second would be felt at every press of the key.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


def test_words_for_completion_are_those_that_are_known() -> None:
    from past_core.encoders import IMAGE_ENCODERS
    from past_core.ingest.quality import QualityOptions

    assert set(encoder_names()) == {"demo", *IMAGE_ENCODERS}
    assert set(ENCODERS) <= {"demo", *IMAGE_ENCODERS}
    assert set(QUALITY) == {"xenium", "minimal"} | {f"{field.name}=" for field in fields(QualityOptions)}


def test_words_of_the_siblings_are_those_that_are_known() -> None:
    from past_vihc.hscore.presets import thresholds_named
    from past_vihc.markers import MARKERS

    presets = module("hscore").COMPLETIONS["preset"]  # type: ignore[attr-defined]
    assert set(presets) == {name for marker in MARKERS.values() for name in marker.presets}
    assert all(thresholds_named(name) for name in presets)
    scored = {name for name, marker in MARKERS.items() if marker.why_no_hscore is None}
    assert isinstance(WORDS["marker"], tuple)
    assert set(WORDS["marker"]) == scored


def test_an_argument_is_written_in_capitals() -> None:
    for verb, command in COMMANDS.items():
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                assert parameter.metavar, verb
                assert parameter.metavar == parameter.metavar.upper(), verb


def test_the_app_can_be_built_again() -> None:
    assert [str(info.name) for info in build_app().registered_commands] == list(VERBS)
