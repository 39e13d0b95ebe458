"""Routing keys: topic words, the templates routes use, and whether a template can ever match a binding.

A *shape* is the set of keys a route may publish with: one key, or the keys a template such as ``email.{name}`` can become.
``can_match`` asks whether a shape and a topic pattern have a key in common. Both are turned into small automata over
characters, and their product is searched; that is exact, where comparing word by word is wrong as soon as ``{task}`` or
``#`` stands for several words.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping

import msgspec

MAX_KEY_BYTES = 255  # an AMQP short string
PLACEHOLDERS = ("name", "task")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def words(key: str) -> list[str]:
    """The words of a key as RabbitMQ's topic exchange has them: the empty key has none, ``a.`` has two."""
    return key.split(".") if key else []


def topic_matches(pattern: str, key: str) -> bool:
    """Does a topic binding match: ``*`` is exactly one word (it may be empty), ``#`` any number of them."""
    reached = {0}  # positions in the pattern that the words so far can have led to
    parts = words(pattern)

    def closed(positions: set[int]) -> set[int]:
        for position in sorted(positions):
            while position < len(parts) and parts[position] == "#":
                position += 1
                positions.add(position)
        return positions

    reached = closed(reached)
    for word in words(key):
        reached = closed(
            {
                position if parts[position] == "#" else position + 1
                for position in reached
                if position < len(parts) and parts[position] in ("#", "*", word)
            }
        )
    return len(parts) in reached


def task_matches(glob: str, task: str) -> bool:
    """Does a route's glob match a full task name: ``*`` any text, dots included, ``?`` one character, ``[ab]`` one of."""
    return fnmatch.fnmatchcase(task, glob)


def render(template: str, task: str) -> str:
    """The routing key of a task: ``{task}`` becomes its name, ``{name}`` the part after the last dot."""
    values = {"task": task, "name": task.rpartition(".")[2]}
    return _PLACEHOLDER.sub(lambda hole: values[hole[1]], template)


def has_placeholders(template: str) -> bool:
    """Does the key depend on the task."""
    return _PLACEHOLDER.search(template) is not None


def template_problem(template: str) -> str | None:
    """What is wrong with the braces of a template, or ``None``."""
    for name in _PLACEHOLDER.findall(template):
        if name not in PLACEHOLDERS:
            return f"unknown placeholder {{{name}}}: a key can use {{task}}, the full name, and {{name}}, the part after its last dot"
    if "{" in (rest := _PLACEHOLDER.sub("", template)) or "}" in rest:
        return "a brace that belongs to no placeholder: a key can use {task} and {name}"
    return None


class Shape(msgspec.Struct, frozen=True):
    """The keys a publisher may use: one ``key``, those a topic ``pattern`` matches, or what a ``template`` can become."""

    key: str | None = None
    pattern: str | None = None
    template: str = ""
    glob: str = "*"

    @classmethod
    def of_route(cls, template: str, glob: str) -> Shape:
        """The keys of a route, for all tasks its glob matches."""
        return cls(template=template, glob=glob) if has_placeholders(template) else cls(template)

    def can_be(self, key: str) -> bool:
        """Can the key be this one."""
        return key == self.key if self.key is not None else _meet(self._machine(), _literal(key))

    def can_match(self, pattern: str) -> bool:
        """Can a topic binding with this pattern match."""
        if self.key is not None:
            return topic_matches(pattern, self.key)
        return _meet(self._machine(), _topic(pattern))

    def _machine(self) -> _Machine:
        return (
            _topic(self.pattern)
            if self.pattern is not None
            else _template(self.template, self.glob)
        )


# ---------------------------------------------------------------- automata over characters
#
# Keys are read with a dot in front (".a.b"; the empty key stays empty), so that every word begins with a dot and `#` is
# simply "(a dot, then no dots) any number of times". A label is a character, or one of the two classes below.

_ANY = "any"
_WORD = "word"  # any character but a dot


class _Machine:
    """States are numbers, 0 is the start; ``steps[state]`` holds (label, target), ``""`` moving without a character."""

    def __init__(self) -> None:
        self.steps: list[list[tuple[str, int]]] = [[]]
        self.final = 0

    def then(self, label: str) -> None:
        """Read one character of the label next."""
        self.steps.append([])
        self.steps[self.final].append((label, len(self.steps) - 1))
        self.final = len(self.steps) - 1

    def text(self, text: str) -> None:
        """Read this text next."""
        for character in text:
            self.then(character)

    def loop(self, label: str) -> None:
        """Read any number of characters of the label next."""
        self.steps[self.final].append((label, self.final))

    def some_words(self) -> None:
        """Read any number of words next, each with its dot in front."""
        self.then("")  # a state of its own: the loop must not lead back into what came before
        start = self.final
        self.then(".")
        self.loop(_WORD)
        self.steps[self.final].append(("", start))
        self.steps.append([])
        self.steps[start].append(("", len(self.steps) - 1))
        self.final = len(self.steps) - 1

    def closure(self, state: int) -> set[int]:
        """The states reached without reading."""
        seen, todo = {state}, [state]
        while todo:
            for label, target in self.steps[todo.pop()]:
                if label == "" and target not in seen:
                    seen.add(target)
                    todo.append(target)
        return seen


def _literal(key: str) -> _Machine:
    machine = _Machine()
    machine.text(f".{key}" if key else "")
    return machine


def _topic(pattern: str) -> _Machine:
    machine = _Machine()
    for word in words(pattern):
        if word == "#":
            machine.some_words()
        else:
            machine.then(".")
            if word == "*":
                machine.loop(_WORD)
                machine.then("")
            else:
                machine.text(word)
    return machine


def _template(template: str, glob: str) -> _Machine:
    machine = _Machine()
    machine.then(".")
    position = 0
    for hole in _PLACEHOLDER.finditer(template):
        machine.text(template[position : hole.start()])
        if hole[1] == "name":
            _name(machine, glob)
        else:
            _glob(machine, glob)
        position = hole.end()
    machine.text(template[position:])
    return machine


def _glob(machine: _Machine, glob: str) -> None:
    """Read what a glob over task names can become."""
    position = 0
    while position < len(glob):
        character = glob[position]
        end = glob.find("]", position + 2) if character == "[" else -1
        if end > 0:
            machine.then(_ANY)  # a character class, taken generously
            position = end
        elif character == "*":
            machine.loop(_ANY)
            machine.then("")
        elif character == "?":
            machine.then(_ANY)
        else:
            machine.then(character)
        position += 1


def _name(machine: _Machine, glob: str) -> None:
    """Read what the part after the last dot can become: the glob's own tail, or any word where that has a wildcard."""
    tail = glob.rpartition(".")[2]
    if "[" in glob or "*" in tail or "?" in tail:
        machine.loop(_WORD)
        machine.then("")
    else:
        machine.text(tail)


def _meet(one: _Machine, other: _Machine) -> bool:
    """Is there a text that both machines read to their end."""
    start = {(a, b) for a in one.closure(0) for b in other.closure(0)}
    seen, todo = set(start), list(start)
    while todo:
        a, b = todo.pop()
        if (a, b) == (one.final, other.final):
            return True
        for label_a, next_a in one.steps[a]:
            for label_b, next_b in other.steps[b]:
                if label_a and label_b and _overlap(label_a, label_b):
                    reached = {
                        (x, y) for x in one.closure(next_a) for y in other.closure(next_b)
                    } - seen
                    seen |= reached
                    todo.extend(reached)
    return False


_CLASSES: Mapping[str, str] = {_ANY: "", _WORD: "."}  # class → the characters it leaves out


def _overlap(one: str, other: str) -> bool:
    """Can one character satisfy both labels."""
    if one in _CLASSES:
        return other in _CLASSES or other not in _CLASSES[one]
    return one not in _CLASSES[other] if other in _CLASSES else one == other
