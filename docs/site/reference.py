"""The reference pages of the site, made from the code: options, report fields, policy keys and reason codes.

mkdocs calls `on_files`; each function returns one page as Markdown, so that a test can ask what is in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from lieaudit_client.command import COMMANDS, command
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
_MESSAGE = re.compile(r"^message (\w+) \{$")
_FIELD = re.compile(r"^ +(?:(optional|repeated) )?(map<[^>]+>|[\w.]+) (\w+) = \d+;(?:\s*//(?P<comment>.*))?$")


@dataclass(frozen=True)
class Field:
    """One field of a message: its kind, its name, and the comment beside it."""

    kind: str
    name: str
    comment: str


@dataclass(frozen=True)
class Message:
    """One message of a ``.proto`` file, with the comment above it."""

    name: str
    comment: str
    fields: tuple[Field, ...]


def messages(proto: str) -> Iterator[Message]:
    """Yield the messages of ``lieaudit_api/v1/<proto>.proto`` in their order; comments stand above or beside."""
    text = (ROOT / "proto" / "lieaudit_api" / "v1" / f"{proto}.proto").read_text(encoding="utf-8")
    above: list[str] = []
    name, said, fields = "", "", list[Field]()
    for line in text.splitlines():
        opened, field = _MESSAGE.match(line), _FIELD.match(line)
        if opened:
            name, said, fields, above = opened[1], " ".join(above), [], []
        elif line == "}" and name:
            yield Message(name, said, tuple(fields))
            name = ""
        elif field:
            beside = (field["comment"] or "").strip()
            fields.append(Field(f"{field[1] or ''} {field[2]}".strip(), field[3], " ".join([*above, beside]).strip()))
            above = []
        elif line.strip().startswith("//"):
            above.append(line.strip().removeprefix("//").strip())
        elif line.strip() != "oneof source {":
            above = []


def report_page() -> str:
    """Every field of a report and of a specification, from the comments of the ``.proto`` files."""
    lines = [
        "# Report fields",
        "",
        "The JSON form of a report has exactly these names; a value that was not measured is absent, and `skipped`",
        "says why. The JSON Schema is `lieaudit_client/report.schema.json`.",
        "",
    ]
    for proto in ("report", "spec"):
        for message in messages(proto):
            lines += [f"## {message.name}", "", message.comment, "", "| field | type | meaning |", "|---|---|---|"]
            lines += [f"| `{f.name}` | `{f.kind}` | {_cell(f.comment)} |" for f in message.fields]
            lines.append("")
    return "\n".join(lines)


def options_page() -> str:
    """Every option of every command, from its help."""
    lines = ["# Commands and options", "", _plain(command.help or ""), "", _plain(command.epilog or ""), ""]
    for path, found in _commands():
        lines += [f"## lieaudit {path}", "", _plain(found.help or ""), ""]
        parameters = [p for p in found.params if isinstance(p, click.Option) and not p.hidden]
        arguments = [p.make_metavar(click.Context(found)) for p in found.params if isinstance(p, click.Argument)]
        if arguments:
            lines += [f"Arguments: `{' '.join(arguments)}`", ""]
        if parameters:
            lines += ["| option | meaning |", "|---|---|"]
            lines += [f"| {', '.join(f'`{o}`' for o in p.opts)} | {_cell(_plain(p.help or ''))} |" for p in parameters]
            lines.append("")
    return "\n".join(lines)


def _commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(command)
    for name in COMMANDS:
        found = command.get_command(context, name)
        if isinstance(found, click.Group):
            for inner, sub in found.commands.items():
                yield f"{name} {inner}", sub
        elif found is not None:
            yield name, found


def policy_page() -> str:
    """Every key of a policy, from its JSON Schema."""
    path = ROOT / "policy" / "lieaudit_policy" / "policy.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    lines = ["# Policy keys", "", "How a policy is written and decided: [the gate](../gate.md).", ""]
    rules = [(f"Rule: {rule['properties']['kind']['const']}", rule) for rule in schema["$defs"]["rule"]["oneOf"]]
    for title, part in [("The policy", schema), *rules, ("Waiver", schema["$defs"]["waiver"])]:
        lines += [f"## {title}", "", part.get("description", ""), "", "| key | value | meaning |", "|---|---|---|"]
        lines += [f"| `{key}` | {_value(entry, schema)} | {_meaning(entry, schema)} |" for key, entry in _keys(part)]
        lines.append("")
    return "\n".join(lines)


def _keys(part: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, entry in part["properties"].items():
        if "properties" in entry:
            yield from _keys(entry, f"{before}{key}.")
        else:
            yield f"{before}{key}", entry


def _resolved(entry: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in entry:
        return {**schema["$defs"][entry["$ref"].rpartition("/")[2]], **entry}
    return entry


def _value(entry: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    entry = _resolved(entry, schema)
    if "const" in entry:
        return f"`{entry['const']}`"
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    return str(entry.get("type", "see the text"))


def _meaning(entry: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    entry = _resolved(entry, schema)
    default = f" Default: `{entry['default']}`." if "default" in entry else ""
    return _cell(entry.get("description", "") + default)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _plain(text: str) -> str:
    return " ".join(text.replace("\b", "").split())


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/options.md": options_page,
    "reference/report.md": report_page,
    "reference/policy.md": policy_page,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference pages (mkdocs' hook)."""
    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs' hook
    """Point links that leave ``docs/`` at the repository."""
    return re.sub(r"\]\(\.\./(?!docs/)([^)]+)\)", rf"]({config.repo_url}/blob/main/\1)", markdown)
