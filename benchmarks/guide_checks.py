"""Whether commands of the guides are ones that the programs know, without running them."""

import ast
import re
import shlex
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
import yaml

from benchmarks.guide_pages import ROOT, Command

OPERATORS = {";", "&&", "||", "|", "&", "do", "then", "else", "done", "(", ")", "{", "}", "!"}
REDIRECT = re.compile(r"^[0-9&]*[<>]+[&<>|]*$")
UsageError = typer.BadParameter.__bases__[0]
"""Of the parser that typer brings."""
PARTS = ("fit", "validate", "test", "predict")
EXIT_OPTIONS = {"--ckpt_path", "--config", "-c", "--print_config", "--seed_everything"}


def problems(command: Command) -> list[str]:
    """What is wrong with a command's `past` and `lightning`; empty where nothing is."""
    found = []
    for words in invocations(command.text):
        check = {"past": _past_problem, "lightning": _lightning_problem}.get(words[0])
        problem = check(words[1:]) if check else None
        if problem:
            found.append(f"{command.place}: {problem}")
    return found


def invocations(text: str) -> list[list[str]]:
    """The programs that a command starts, each with its arguments; here-documents are not looked into."""
    text = re.sub(r"<<-?\s*(['\"]?)(\w+)\1(.*?)\n.*?\n\2(?=\n|$)", r"\3", text, flags=re.S)
    text = text.replace("\\\n", " ").replace("\n", " ; ")
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = []
    words: list[str] = []
    skip = False
    for token in [*lexer, ";"]:
        if skip:  # the file of a redirection
            skip = False
        elif REDIRECT.match(token):
            skip = True
        elif token in OPERATORS or set(token) <= set(";&|()"):
            found += [words] if words else []
            words = []
        else:
            words.append(token)
    return [_program(words) for words in found if _program(words)]


def _program(words: list[str]) -> list[str]:
    """Without variables before it, `uv run`, `torchrun ... --no-python` and the like."""
    while words and re.match(r"^\w+=", words[0]):
        words = words[1:]
    for index, word in enumerate(words):
        if word in ("past", "lightning") and all(map(_leads, words[:index])):
            return words[index:]
    return words


def _leads(word: str) -> bool:
    """Whether a word may stand before the program: a runner, its options and their values."""
    runners = {"uv", "run", "time", "torchrun", "srun"}
    return word in runners or word.startswith(("-", "$")) or "." in word or word.isdigit()


@lru_cache(maxsize=1)
def _app() -> Any:
    from past_core.cli import build_app

    return typer.main.get_command(build_app())


def _past_problem(arguments: list[str]) -> str | None:
    app = _app()
    verb = next((word for word in arguments if not word.startswith("-")), None)
    if verb is None:
        return None
    if verb not in app.commands:
        return f"past has no verb {verb!r}; it has {', '.join(sorted(app.commands))}"
    command = app.commands[verb]
    rest = arguments[arguments.index(verb) + 1 :]
    context = command.context_class(command, info_name=f"past {verb}")
    try:
        given, left, _ = command.make_parser(context).parse_args(list(rest))
    except UsageError as error:
        return f"past {verb}: {error.format_message()}"
    if left:
        return f"past {verb}: {left} is too much"
    lacking = [p.opts[0] for p in command.params if p.required and given.get(p.name or "") in (None, ())]
    return f"past {verb} lacks {', '.join(lacking)}" if lacking and "--help" not in rest else None


def _lightning_problem(arguments: list[str]) -> str | None:
    if not arguments or arguments[0] not in PARTS:
        return f"lightning has no command {arguments[:1]}; it has {', '.join(PARTS)}"
    keys: set[str] = set()
    for word, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in ("-c", "--config"):
            recipe = ROOT / value
            if not recipe.is_file():
                return f"there is no {value}"
            keys |= _keys(yaml.safe_load(recipe.read_text(encoding="utf-8")))
    for word in arguments[1:]:
        option = word.split("=")[0]
        if not option.startswith("--") or option in EXIT_OPTIONS:
            continue
        if option[2:] not in keys and not _is_trainers(option[2:]):
            return f"{option} is no key of the recipe"
    return None


def _keys(content: dict[str, Any]) -> set[str]:
    """Dotted keys of a recipe, as they are given on the command line: without `init_args`."""
    found: set[str] = set()

    def walk(prefix: str, value: Any) -> None:
        found.add(prefix)
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(prefix if key == "init_args" else f"{prefix}.{key}", inner)

    for key, value in content.items():
        walk(key, value)
    return found


def _is_trainers(key: str) -> bool:
    return key.startswith("trainer.") and key.split(".")[1] in _trainer_arguments()


@lru_cache(maxsize=1)
def _trainer_arguments() -> set[str]:
    """Arguments of Lightning's trainer, read from its source: importing it takes many seconds."""
    spec = find_spec("lightning")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "pytorch/trainer/trainer.py").read_text(encoding="utf-8")
    (trainer,) = [
        node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Trainer"
    ]
    (made,) = [node for node in trainer.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    return {argument.arg for argument in [*made.args.args, *made.args.kwonlyargs]}
