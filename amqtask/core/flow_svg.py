"""A flow as an SVG picture: laid out from left to right, what runs side by side in a frame. Pure, plain SVG, no script."""

from __future__ import annotations

import math
from html import escape

import msgspec

from amqtask.core.flow import Aside, Box, Flow, Steps, folded, shortened

MARGIN, GAP, ROW, INSIDE = (
    16,
    34,
    12,
    12,
)  # pixels: around all, between steps, between rows, in a frame
HEAD, LINE, CHARACTER = 22, 16, 7.1  # a frame's title, a line of text, the width of a character
NARROW, WIDE = 84, 300  # a box
HANG = 26  # how far what hangs on a box is set in

FILLS = {
    "SUCCESS": ("#d7f0e2", "#0b6e4f"),
    "FAILURE": ("#fbdcd9", "#b3261e"),
    "REVOKED": ("#fdecc8", "#8a5a00"),
    "RETRY": ("#dbe9fb", "#1f5fa8"),
    "STARTED": ("#dbe9fb", "#1f5fa8"),
    "PENDING": ("#eef1f4", "#7b8794"),
}
PLAIN = ("#f5f7fa", "#3e4c59")
STYLE = (
    "text{font:12.5px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2933}"
    ".d{font-size:11px;fill:#52606d}.f{fill:#f9fafb;stroke:#9aa5b1}.a{fill:none;stroke:#52606d;stroke-width:1.3}"
    ".e{stroke:#b3261e;stroke-dasharray:4 3}"
)


class Placed(msgspec.Struct):
    """A flow with its size in pixels.

    ``width`` and ``height`` are of all, ``own`` and ``top`` of it without what hangs on it; ``mid`` is how far down arrows lead in
    and out.
    """

    flow: Flow
    own: float
    top: float
    mid: float
    width: float
    height: float
    inner: list[Placed] = []
    hanging: list[Placed] = []


def svg(flow: Flow, title: str = "workflow") -> str:
    """The flow, folded, as a picture.

    Args:
        flow: what to draw.
        title: for people who cannot see it.
    """
    placed = measured(folded(flow))
    pen = _Pen()
    pen.draw(placed, MARGIN, MARGIN)
    width, height = math.ceil(placed.width + 2 * MARGIN), math.ceil(placed.height + 2 * MARGIN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{_safe(title)}">\n<style>{STYLE}</style>\n'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#52606d"/></marker></defs>\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n' + "\n".join(pen.shapes) + "\n</svg>\n"
    )  # fmt: skip


# ---------------------------------------------------------------- layout


def measured(flow: Flow) -> Placed:
    """A flow and all in it with their sizes."""
    inner: list[Placed] = []
    if isinstance(flow, Box):
        lines = _lines(flow)
        own = min(max(NARROW, max(map(len, lines)) * CHARACTER + 20), WIDE)
        top = LINE * len(lines) + 14.0
        mid = top / 2
    elif isinstance(flow, Steps):
        inner = [measured(part) for part in flow.parts]
        frame, head = (INSIDE, HEAD) if flow.asides else (0, 0)
        mid = max((part.mid for part in inner), default=0.0)
        top = mid + max((part.height - part.mid for part in inner), default=0.0) + frame + head
        mid += head
        own = sum(part.width for part in inner) + GAP * max(0, len(inner) - 1) + 2 * frame
        if inner and not frame:
            own += inner[-1].own - inner[-1].width  # arrows start at what is drawn
    else:
        inner = [measured(part) for part in flow.parts]
        widest = max((part.width for part in inner), default=0.0)
        own = max(widest, len(flow.title) * CHARACTER, NARROW) + 2 * INSIDE
        top = sum(part.height for part in inner) + ROW * max(0, len(inner) - 1) + HEAD + INSIDE
        mid = top / 2
    placed = Placed(flow, own, top, mid, own, top, inner)
    if inner and isinstance(flow, Steps):
        placed.width = max(own, sum(part.width for part in inner) + GAP * (len(inner) - 1))
    for aside in flow.asides:
        hanging = measured(aside.flow)
        placed.hanging.append(hanging)
        label = len(aside.label) * CHARACTER * 0.85 + 14
        placed.width = max(placed.width, HANG + label + hanging.width)
        placed.height += ROW + hanging.height
    return placed


def _lines(box: Box) -> list[str]:
    lines = [box.title, box.detail, box.state or ""]
    return [shortened(line, int((WIDE - 20) / CHARACTER)) for line in lines if line] or [""]


# ---------------------------------------------------------------- drawing


class _Pen:
    """Draws shapes where the layout puts them."""

    def __init__(self) -> None:
        self.shapes: list[str] = []

    def draw(self, placed: Placed, x: float, y: float) -> None:
        flow = placed.flow
        if isinstance(flow, Box):
            self._box(placed, flow, x, y)
        elif isinstance(flow, Steps):
            self._steps(placed, flow, x, y)
        else:
            self._frame(flow.title, placed, x, y)
            top = y + HEAD
            for part in placed.inner:
                self.draw(part, x + INSIDE, top)
                top += part.height + ROW
        edge = x + 14
        top = y + placed.top + ROW
        for aside, hanging in zip(flow.asides, placed.hanging, strict=True):
            self._aside(aside, hanging, edge, y + placed.top, x, top)
            top += hanging.height + ROW

    def _box(self, placed: Placed, box: Box, x: float, y: float) -> None:
        fill, line = FILLS.get(box.state or "", PLAIN)
        more = box.title.startswith("…")
        dashes = ' stroke-dasharray="4 3"' if more else ""
        lines = _lines(box)
        texts = "".join(
            f'<text x="{x + 10:g}" y="{y + 7 + LINE * number + 12:g}"{_class(number)}>{_safe(line_)}</text>'
            for number, line_ in enumerate(lines)
        )
        tip = f"<title>{_safe(box.tip)}</title>" if box.tip else ""
        self.shapes.append(
            f'<g>{tip}<rect x="{x:g}" y="{y:g}" width="{placed.own:g}" height="{placed.top:g}" rx="6" '
            f'fill="{fill}" stroke="{line}"{dashes}/>{texts}</g>'
        )

    def _steps(self, placed: Placed, flow: Steps, x: float, y: float) -> None:
        left = x
        if flow.asides:
            self._frame("chain", placed, x, y)
            left += INSIDE
        middle = y + placed.mid
        before: float | None = None
        for part in placed.inner:
            self.draw(part, left, middle - part.mid)
            if before is not None:
                self._arrow(f"M{before:g} {middle:g}H{left - 1:g}")
            before = left + part.own
            left += part.width + GAP

    def _frame(self, title: str, placed: Placed, x: float, y: float) -> None:
        self.shapes.append(
            f'<rect class="f" x="{x:g}" y="{y:g}" width="{placed.own:g}" height="{placed.top:g}" rx="8"/>'
            f'<text class="d" x="{x + INSIDE:g}" y="{y + 15:g}">{_safe(title)}</text>'
        )

    def _aside(
        self, aside: Aside, hanging: Placed, edge: float, start: float, x: float, top: float
    ) -> None:
        label = len(aside.label) * CHARACTER * 0.85 + 14
        middle = top + hanging.mid
        left = x + HANG + label
        self._arrow(f"M{edge:g} {start:g}V{middle:g}H{left - 1:g}", error=aside.error)
        self.shapes.append(
            f'<text class="d" x="{edge + 6:g}" y="{middle - 4:g}">{_safe(aside.label)}</text>'
        )
        self.draw(hanging, left, top)

    def _arrow(self, path: str, error: bool = False) -> None:
        kind = "a e" if error else "a"
        self.shapes.append(f'<path class="{kind}" d="{path}" marker-end="url(#arrow)"/>')


def _class(number: int) -> str:
    return ' class="d"' if number else ""


def _safe(text: str) -> str:
    """A text as XML takes it: escaped, and without characters that it has no place for."""
    return escape("".join(each if each.isprintable() else " " for each in text))
