"""Writes the reference pages that follow from the code: docs/cli.md and docs/config.md.

``python scripts/make_docs.py`` writes them; with ``--check`` it only says which are out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from local_trainer.cli.main import app
from local_trainer.config import config_fields

DOCS = Path(__file__).parents[1] / "docs"

_CONFIG_INTRO = """\
# Settings of a run

Every key below can stand in a YAML file (`local-trainer train --config FILE`) or be given by
itself (`--set ppo.batch_size=64`). Later ones win: the profile's defaults, the file, `--set`, named
options such as `--minutes`. A key that does not exist or a value out of range is refused with one
line that says what is allowed. Where the default is none, YAML writes it `null`. The settings of a
run, defaults included, lie in its `config.yaml`.

Defaults are those of the profile `fast`. The profile `cloud` (`--profile cloud`) begins from the
service's own defaults instead:
"""

_CLI_INTRO = """\
# Commands

`local-trainer COMMAND --help` shows the same in the terminal. Every command ends with status 0 when
it did what it should, 1 when it failed, 2 when it was used wrongly or a setting is not allowed, and
130 after Ctrl-C. An error is one line; `--traceback` shows where in the code it came from.
"""


def pages() -> dict[Path, str]:
    """Return the generated pages by their place."""
    return {DOCS / "cli.md": cli_page(), DOCS / "config.md": config_page()}


def config_page() -> str:
    """Return the page of settings, one table a section."""
    from local_trainer.config import PROFILES

    lines = [_CONFIG_INTRO]
    cloud = sorted(_flat(PROFILES["cloud"]))
    lines += _table(("key", "`cloud`"), [(f"`{key}`", _value(value)) for key, value in cloud])
    section = None
    for field in config_fields():
        name = field.key.rpartition(".")[0]
        if name != section:
            section = name
            lines += ["", f"## {f'`{name}`' if name else 'Top level'}", ""]
            lines += _table_head(("key", "takes", "default", "meaning"))
        row = (f"`{field.key}`", field.allowed, _value(field.default), _code(field.description))
        lines.append(_row(row))
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """Return the page of commands, one section a command."""
    lines = [_CLI_INTRO]
    for path, command in walk_commands():
        lines += [f"## `{path}`", "", _code(command.help or ""), ""]
        rows = [_parameter(param) for param in command.params if param.name != "help"]
        if rows:
            lines += [*_table(("option", "meaning", "default"), rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def walk_commands() -> Iterator[tuple[str, Any]]:
    """Yield every command with its full name; groups themselves are left out."""
    yield from _walk(typer.main.get_command(app), "local-trainer")


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from _walk(child, f"{path} {name}")


def _parameter(param: Any) -> tuple[str, str, str]:
    takes = param.metavar or _type(param)
    is_argument = param.param_type_name == "argument"
    names = takes if is_argument else ", ".join([*param.opts, *param.secondary_opts])
    flag = is_argument or param.is_flag
    default = param.default
    is_shown = default not in (None, False, ()) and not callable(default)
    return (
        f"`{names}`" if flag else f"`{names} {takes}`",
        _code(param.help or ""),
        f"`{default}`" if is_shown else "",
    )


def _type(param: Any) -> str:
    annotation = param.type_descriptor.annotation
    words = {"str": "TEXT", "int": "N", "float": "X", "Path": "PATH"}
    return words.get(getattr(annotation, "__name__", ""), str(param.name).upper())


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [*_table_head(head), *map(_row, rows)]


def _table_head(head: tuple[str, ...]) -> list[str]:
    return [_row(head), _row(tuple("---" for _ in head))]


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _code(text: str) -> str:
    """Return a docstring's text as Markdown, on one line."""
    return " ".join(text.split()).replace("``", "`")


def main() -> None:
    """Write the pages, or say which are out of date."""
    stale = {
        path: text
        for path, text in pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is out of date; run: make docs", file=sys.stderr)
        sys.exit(1 if stale else 0)
    for path, text in stale.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
