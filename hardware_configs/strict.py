"""Strict reading of YAML and JSON documents, with every problem found in one error.

A robot that starts on a half-understood file moves wrongly, so a document is read key by key with
the expected type beside each key. Nothing is coerced: ``true`` is not a number and ``"2.1"`` is not
either. Problems are collected, each as ``file:key: got X, expected Y``, and raised together, so
that a file is mended in one round.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import yaml

GOT_LENGTH_MAX = 80


class Problems:
    """What is wrong with one document.

    Attributes:
        file: the document's name as it appears in the messages.
        lines: one ``file:key: got X, expected Y`` per problem, in the order found.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: list[str] = []

    def add(self, key: str, got: str, expected: str) -> None:
        """Records one problem of the value under ``key`` (empty: the document itself)."""
        place = f"{self.file}:{key}" if key else self.file
        self.lines.append(f"{place}: got {got}, expected {expected}")

    def raise_if_any(self, error: type[ValueError]) -> None:
        """Raises ``error`` with all the lines when there is any."""
        if self.lines:
            raise error("\n".join(self.lines))


def show(value: object) -> str:
    """Returns a value as a message shows it: its repr, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= GOT_LENGTH_MAX else text[: GOT_LENGTH_MAX - 3] + "..."


class Node:
    """A mapping inside a document, read one typed key at a time.

    A getter that meets a problem records it and returns a placeholder of the right type (NaN for a
    number), so that reading goes on; the caller raises at the end. Comparisons with such a
    placeholder are false and add no follow-up problem.

    Args:
        value: what the document holds at this place; anything but a mapping with text keys is a
            problem.
        key: the place's full key, such as ``joints[2]``.
        problems: where problems are recorded.
    """

    def __init__(self, value: object, key: str, problems: Problems) -> None:
        self.key = key
        self.problems = problems
        self.is_mapping = isinstance(value, dict)
        self.values: dict[Any, object] = value if isinstance(value, dict) else {}
        self._read: set[str] = set()
        if not self.is_mapping:
            problems.add(key, show(value), "a mapping")

    def path(self, key: object) -> str:
        """Returns the full key of ``key`` in this mapping."""
        return f"{self.key}.{key}" if self.key else str(key)

    def has(self, key: str) -> bool:
        """Tells whether the mapping has ``key``, for the keys that may be left out."""
        return key in self.values

    def is_null(self, key: str) -> bool:
        """Reads a null and tells whether it was one, for the keys that may hold it."""
        found = self.has(key) and self.values[key] is None
        if found:
            self._read.add(key)
        return found

    def wrong(self, key: str, expected: str) -> None:
        """Records that the value under ``key`` is not as expected."""
        # One problem says that a place is no mapping; its keys are then not missed one by one.
        if self.is_mapping:
            got = show(self.values[key]) if key in self.values else "nothing"
            self.problems.add(self.path(key), got, expected)

    def finish(self) -> None:
        """Records every key of the mapping that no getter has read."""
        for key in self.values:
            if key not in self._read:
                known = ", ".join(sorted(self._read))
                self.problems.add(self.path(key), "an unknown key", f"one of {known}")

    def _get(self, key: str) -> object:
        self._read.add(key)
        return self.values.get(key)

    def text(
        self, key: str, pattern: str = r".+", expected: str = "a text that is not empty"
    ) -> str:
        """Reads a text that matches ``pattern`` as a whole."""
        value = self._get(key)
        if isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL):
            return value
        self.wrong(key, expected)
        return ""

    def choice(self, key: str, options: Sequence[str]) -> str:
        """Reads a text that is one of ``options``."""
        value = self._get(key)
        if isinstance(value, str) and value in options:
            return value
        self.wrong(key, "one of " + ", ".join(options))
        return options[0]

    def number(self, key: str, above: float = -math.inf, at_least: float = -math.inf) -> float:
        """Reads a finite number greater than ``above`` and not under ``at_least``."""
        value = self._get(key)
        if is_number(value) and value > above and value >= at_least:
            return float(value) + 0.0  # -0.0 becomes 0.0: equal files get equal hashes
        self.wrong(key, "a finite number" + _bounds(above, at_least))
        return math.nan

    def whole(self, key: str, at_least: int) -> int:
        """Reads a whole number not under ``at_least``."""
        value = self._get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= at_least:
            return value
        self.wrong(key, f"a whole number, at least {at_least}")
        return at_least

    def numbers(self, key: str, length: int | None) -> tuple[float, ...]:
        """Reads a list of ``length`` finite numbers (``None``: any length)."""
        value = self._get(key)
        count = "" if length is None else f"{length} "
        size = len(value) if length is None and isinstance(value, list) else length or 0
        if not isinstance(value, list) or len(value) != size:
            self.wrong(key, f"a list of {count}finite numbers")
            return (math.nan,) * size
        for i, item in enumerate(value):
            if not is_number(item):
                self.problems.add(f"{self.path(key)}[{i}]", show(item), "a finite number")
        return tuple(float(item) + 0.0 if is_number(item) else math.nan for item in value)

    def wholes(self, key: str, at_least: int) -> tuple[int, ...]:
        """Reads a list of whole numbers, none under ``at_least``."""
        value = self._get(key)
        if isinstance(value, list) and all(
            isinstance(item, int) and not isinstance(item, bool) and item >= at_least
            for item in value
        ):
            return tuple(value)
        self.wrong(key, f"a list of whole numbers, each at least {at_least}")
        return ()

    def texts(self, key: str, pattern: str = r".+") -> tuple[str, ...]:
        """Reads a list (it may be empty) of texts that each match ``pattern``."""
        value = self._get(key)
        if isinstance(value, list) and all(
            isinstance(item, str) and re.fullmatch(pattern, item) for item in value
        ):
            return tuple(value)
        self.wrong(key, "a list of texts")
        return ()

    def node(self, key: str) -> Node:
        """Reads a mapping."""
        value = self._get(key)
        if key in self.values:
            return Node(value, self.path(key), self.problems)
        self.wrong(key, "a mapping")
        empty = Node({}, self.path(key), self.problems)
        empty.is_mapping = False
        return empty

    def nodes(self, key: str, at_least: int = 0) -> list[Node]:
        """Reads a list of at least so many mappings."""
        value = self._get(key)
        if not isinstance(value, list) or len(value) < at_least:
            count = f" of at least {at_least}" if at_least else ""
            self.wrong(key, f"a list{count} of mappings")
            return []
        return [Node(item, f"{self.path(key)}[{i}]", self.problems) for i, item in enumerate(value)]


def is_number(value: Any) -> TypeGuard[int | float]:
    """Tells whether a value is a finite number; a bool is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _bounds(above: float, at_least: float) -> str:
    text = f" above {above:g}" if math.isfinite(above) else ""
    return text + (f", at least {at_least:g}" if math.isfinite(at_least) else "")


def read_yaml(path: Path, file: str, error: type[ValueError]) -> tuple[Node, Problems]:
    """Reads a YAML file into its root node; a repeated key is a problem like any other.

    Args:
        path: the file.
        file: the name used in messages.
        error: raised at once when the file cannot be read or is no YAML.
    """
    problems = Problems(file)
    value: object = None
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        _find_repeated_keys(tree, "", problems, set())
        value = yaml.safe_load(text)
    except FileNotFoundError:
        problems.add("", "no such file", "a YAML file")
    except (OSError, UnicodeDecodeError) as reason:
        problems.add("", f"an unreadable file ({reason})", "a YAML file")
    except yaml.YAMLError as reason:
        problems.add("", "no YAML: " + " ".join(str(reason).split()), "a YAML file")
    else:
        return Node(value, "", problems), problems
    problems.raise_if_any(error)
    raise AssertionError("unreachable")


def _find_repeated_keys(
    tree: yaml.Node | None, key: str, problems: Problems, seen: set[int]
) -> None:
    if tree is None or id(tree) in seen:
        return
    seen.add(id(tree))
    if isinstance(tree, yaml.SequenceNode):
        for i, item in enumerate(tree.value):
            _find_repeated_keys(item, f"{key}[{i}]", problems, seen)
    elif isinstance(tree, yaml.MappingNode):
        first_lines: dict[str, int] = {}
        for name_node, value_node in tree.value:
            name = str(name_node.value)
            place = f"{key}.{name}" if key else name
            line = name_node.start_mark.line + 1
            if name in first_lines:
                got = f"the key again in line {line}"
                problems.add(place, got, f"it once, as in line {first_lines[name]}")
            first_lines.setdefault(name, line)
            _find_repeated_keys(value_node, place, problems, seen)


def read_json(path: Path, file: str, error: type[ValueError]) -> tuple[Node, Problems]:
    """Reads a JSON file into its root node; see ``read_yaml``. NaN and Infinity are no JSON."""
    problems = Problems(file)

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        values: dict[str, object] = {}
        for name, value in pairs:
            if name in values:
                problems.add(name, "the key again", "it once")
            values[name] = value
        return values

    try:
        value: object = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except FileNotFoundError:
        problems.add("", "no such file", "a JSON file")
    except (OSError, UnicodeDecodeError) as reason:
        problems.add("", f"an unreadable file ({reason})", "a JSON file")
    except json.JSONDecodeError as reason:
        problems.add("", f"no JSON ({reason})", "a JSON file")
    else:
        return Node(value, "", problems), problems
    problems.raise_if_any(error)
    raise AssertionError("unreachable")
