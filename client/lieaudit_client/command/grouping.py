"""Help by subject: options in groups with their defaults, those that do nothing for a command left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from lieaudit_client.suggestions import meant

F = TypeVar("F", bound=Callable[..., Any])

MEASURED = "What is measured"
MODEL = "The model's inputs"
IMAGES = "Images"
STATISTICS = "Statistics"
COMPUTING = "Computing"
TORCH = "Torch"
SERVICE = "Service"
OUTPUT = "Output"
_ORDER = (IMAGES, MEASURED, MODEL, STATISTICS, COMPUTING, TORCH, OUTPUT, SERVICE)


class GroupedOption(click.Option):
    """An option that belongs to a group of the help.

    ``unset`` says what holds where it is not given: the default is the service's, which a missing field asks for.
    """

    def __init__(self, *arguments: Any, group: str = "", unset: str = "", **settings: Any) -> None:
        if unset:
            settings["help"] = f"{settings['help']}  [default: {unset}]"
        super().__init__(*arguments, **settings)
        self.group = group
        self.unset = unset


class GroupedCommand(click.Command):
    """A command whose help lists its options by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for every group that has an option; those of no group come first."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": [], **{name: [] for name in _ORDER}}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(parameter, "group", "") or "Options", []).append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def option(group: str, *names: str, **settings: Any) -> Callable[[F], F]:
    """Return `click.option` for an option of a group."""
    return click.option(*names, cls=GroupedOption, group=group, **settings)


def hiding(names: Iterable[str]) -> Callable[[F], F]:
    """Leave options out of a command's help that it accepts and has no use for."""
    hidden = frozenset(names)

    def change(function: F) -> F:
        for parameter in getattr(function, "__click_params__", []):
            if parameter.name in hidden:
                parameter.hidden = True
        return function

    return change


def unknown_command(name: str, known: Iterable[str]) -> str:
    """Say that there is no such command, and which is meant."""
    return f"No such command {name!r}{meant(name, known)}; `lieaudit --help` lists them."
