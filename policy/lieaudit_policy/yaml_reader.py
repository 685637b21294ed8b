"""YAML read into typed values that know their line, with every problem collected instead of only the first.

Policies come from pull requests, so the text is untrusted: aliases (the "billion laughs" expansion), duplicate keys,
several documents and oversized files are refused.
"""

from __future__ import annotations

import datetime as dt
import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import yaml

MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at one place of the policy: 1-based ``line``, dotted ``field``, ``message`` and what to do."""

    line: int
    field: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"line {self.line}: " + (f"{self.field}: " if self.field else "")
        return place + self.message + (f" ({self.hint})" if self.hint else "")


class Unreadable(Exception):  # noqa: N818 - a signal to the caller, turned into a Problem
    """The text is not one YAML mapping; ``problem`` says where and why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def compose(text: str) -> yaml.MappingNode:
    """Parse ``text`` into the root mapping node. Raises `Unreadable`."""
    if len(text.encode()) > MAX_BYTES:
        raise Unreadable(
            Problem(1, "", f"the policy is larger than {MAX_BYTES // 1024} KiB", "a policy is a short list of rules")
        )
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise Unreadable(Problem(line, "", "YAML aliases are not accepted", "write the value out"))
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Unreadable(
            Problem(mark.line + 1 if mark else 1, "", f"not YAML: {error.problem or error.context}")
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise Unreadable(Problem(1, "", f"not YAML: {str(error)[:200]}")) from error
    if not isinstance(node, yaml.MappingNode):
        raise Unreadable(
            Problem(1, "", "a policy is a mapping with `version` and `rules`", "`lieaudit policy init` writes one")
        )
    return node


def line_of(node: yaml.Node) -> int:
    """Return the 1-based line the node starts at."""
    return int(node.start_mark.line) + 1 if node.start_mark else 1


class Fields:
    """The entries of one mapping node; each getter checks one field and adds to ``problems`` what is wrong with it."""

    def __init__(self, node: yaml.Node, path: str, known: Sequence[str], problems: list[Problem]) -> None:
        self.node = node
        self.path = path
        self.problems = problems
        self.entries: dict[str, yaml.Node] = {}
        self._misspelt: set[str] = set()
        if not isinstance(node, yaml.MappingNode):
            self._add(node, path, "must be a mapping (`name: value` lines)")
            return
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            where = self._where(name)
            if name in self.entries:
                self._add(key, where, "is given twice", "keep one")
            elif name not in known:
                self._add(key, where, "no such field", suggestion(name, known))
                self._misspelt.update(_close(name, known))
            else:
                self.entries[name] = value

    def _where(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _add(self, node: yaml.Node, field: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(line_of(node), field, message, hint))

    def fail(self, name: str, message: str, hint: str = "") -> None:
        """Add a problem about field ``name`` (or the mapping itself where the field is absent)."""
        self._add(self.entries.get(name, self.node), self._where(name), message, hint)

    def line(self, name: str) -> int:
        """Return the line of a field, or of the mapping where it is absent."""
        return line_of(self.entries.get(name, self.node))

    def require(self, *names: str) -> None:
        """Add a problem for each field that is absent, unless a misspelt one was told already."""
        for name in names:
            if name not in self.entries and name not in self._misspelt:
                self._add(self.node, self._where(name), "is missing")

    def text(self, name: str, default: str = "", pattern: str = "", rule: str = "") -> str:
        """Return a non-empty string."""
        node = self.entries.get(name)
        if node is None:
            return default
        value = _scalar(node)
        if not isinstance(value, str) or not value.strip():
            self.fail(name, "must be a non-empty text", "put it in quotes" if value is not None else "")
            return default
        if pattern and not re.fullmatch(pattern, value):
            self.fail(name, f"{value!r} {rule}")
            return default
        return value.strip()

    def choice(self, name: str, choices: Sequence[str], default: str = "") -> str:
        """Return one of ``choices``."""
        value = self.text(name, default)
        if value and value not in choices:
            self.fail(name, f"{value!r} is not one of {', '.join(choices)}", suggestion(value, choices, listed=False))
            return default
        return value

    def number(self, name: str, default: float, low: float, high: float, why: str) -> float:
        """Return a finite number in [low, high]; ``why`` says what the range means."""
        node = self.entries.get(name)
        if node is None:
            return default
        value = _scalar(node)
        if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
            if value.strip().endswith("%"):
                self.fail(name, f"{value!r} is not a number", "write a fraction: 10 % is 0.10")
                return default
            try:
                value = float(value)
            except ValueError:
                value = None
        if isinstance(value, int) and abs(value) > 2**53:
            value = math.inf  # an integer of any length is YAML, and may be too large for a float
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fail(name, "must be a number", why)
            return default
        if not low <= value <= high:
            self.fail(name, f"{value:g} is not in {low:g} … {high:g}", why)
            return default
        return float(value)

    def integer(self, name: str, default: int, low: int, high: int, why: str) -> int:
        """Return an integer in [low, high]."""
        value = self.number(name, default, low, high, why)
        if value != int(value):
            self.fail(name, f"{value:g} is not a whole number", why)
            return default
        return int(value)

    def date(self, name: str) -> dt.date | None:
        """Return an ISO date."""
        node = self.entries.get(name)
        if node is None:
            return None
        value = _scalar(node)
        if isinstance(value, dt.datetime):
            value = value.date()
        if isinstance(value, str):
            try:
                value = dt.date.fromisoformat(value)
            except ValueError:
                value = None
        if not isinstance(value, dt.date):
            self.fail(name, "must be a date", "like 2027-01-31")
            return None
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of strings; one string counts as a list of one."""
        node = self.entries.get(name)
        if node is None:
            return ()
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        values = [_scalar(item) for item in items]
        if not values or not all(isinstance(value, str) and value for value in values):
            self.fail(name, "must be a name or a list of names")
            return ()
        return tuple(str(value) for value in values)

    def items(self, name: str) -> list[yaml.Node]:
        """Return the nodes of a list."""
        node = self.entries.get(name)
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            self.fail(name, "must be a list (lines that start with `- `)")
            return []
        return list(node.value)

    def mapping(self, name: str, known: Sequence[str]) -> Fields:
        """Return a nested mapping; an absent one is empty."""
        node = self.entries.get(name)
        if node is None:
            node = yaml.MappingNode("tag:yaml.org,2002:map", [], self.node.start_mark, self.node.end_mark)
        return Fields(node, self._where(name), known, self.problems)


def suggestion(name: str, known: Iterable[str], *, listed: bool = True) -> str:
    """Say which known name was probably meant, or list them."""
    names = list(known)
    close = _close(name, names)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if listed else ""


def _close(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)


def _scalar(node: yaml.Node) -> object:
    """Construct a scalar as YAML types it; a list or mapping is None."""
    if not isinstance(node, yaml.ScalarNode):
        return None
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError):  # e.g. the date 2026-02-31
        return node.value
    finally:
        loader.dispose()
