"""A flow as mermaid text, which code hosts and documentation tools draw. Pure."""

from __future__ import annotations

import itertools

from amqtask.core.flow import Aside, Box, Flow, Steps, folded

CLASSES = {
    "SUCCESS": "success",
    "FAILURE": "failure",
    "REVOKED": "revoked",
    "RETRY": "running",
    "STARTED": "running",
    "PENDING": "pending",
}
STYLES = """\
    classDef success fill:#d7f0e2,stroke:#0b6e4f
    classDef failure fill:#fbdcd9,stroke:#b3261e
    classDef revoked fill:#fdecc8,stroke:#8a5a00
    classDef running fill:#dbe9fb,stroke:#1f5fa8
    classDef pending fill:#eef1f4,stroke:#7b8794
    classDef more fill:#ffffff,stroke:#7b8794,stroke-dasharray: 4 3
"""


def mermaid(flow: Flow) -> str:
    """The flow, folded, as a mermaid flowchart."""
    drawing = _Drawing()
    drawing.add(folded(flow), 1)
    lines = ["flowchart LR", *drawing.lines, *drawing.arrows]
    return "\n".join(lines) + "\n" + STYLES


class _Drawing:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.arrows: list[str] = []
        self._count = 0

    def add(self, flow: Flow, indent: int) -> tuple[str, str]:
        """Add a flow; the names of what leads in and out."""
        if isinstance(flow, Box):
            ends = self._box(flow, indent)
        elif isinstance(flow, Steps) and not flow.asides:
            ends = self._row(flow.parts, indent)
        else:
            ends = self._frame(flow, indent)
        for aside in flow.asides:
            self._aside(ends[1], aside, indent)
        return ends

    def _box(self, box: Box, indent: int) -> tuple[str, str]:
        name = self._name("n")
        lines = [box.title, *(line for line in (box.detail, box.state or "") if line)]
        kind = "more" if box.title.startswith("…") else CLASSES.get(box.state or "", "")
        style = f":::{kind}" if kind else ""
        self._line(f'{name}["{"<br/>".join(map(escaped, lines))}"]{style}', indent)
        return name, name

    def _row(self, parts: tuple[Flow, ...], indent: int) -> tuple[str, str]:
        ends = [self.add(part, indent) for part in parts]
        if not ends:
            return self._box(Box("nothing"), indent)
        for (_, before), (after, _) in itertools.pairwise(ends):
            self.arrows.append(f"    {before} --> {after}")
        return ends[0][0], ends[-1][1]

    def _frame(self, flow: Flow, indent: int) -> tuple[str, str]:
        name = self._name("g")
        title = "chain" if isinstance(flow, Steps) else flow.title
        self._line(f'subgraph {name}["{escaped(title)}"]', indent)
        if isinstance(flow, Steps):
            self._row(flow.parts, indent + 1)
        elif not isinstance(flow, Box):
            for part in flow.parts:
                self.add(part, indent + 1)
        self._line("end", indent)
        return name, name

    def _aside(self, name: str, aside: Aside, indent: int) -> None:
        entry, _ = self.add(aside.flow, indent)
        arrow = "-.->" if aside.error else "-->"
        self.arrows.append(f'    {name} {arrow}|"{escaped(aside.label)}"| {entry}')

    def _name(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _line(self, text: str, indent: int) -> None:
        self.lines.append("    " * indent + text)


def escaped(text: str) -> str:
    """A text as mermaid takes it between quotes."""
    safe = (f"#{ord(character)};" if character in '"#<>`&\\' else character for character in text)
    return " ".join("".join(safe).split()) or " "
