"""Workflows as boxes and arrows: folding, mermaid, SVG, JSON."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqtask.core.flow import (
    BESIDE_MAX,
    DEPTH_MAX,
    STEPS_MAX,
    Aside,
    Beside,
    Box,
    Flow,
    Steps,
    boxes,
    folded,
    from_json,
    to_json,
)
from amqtask.core.flow_mermaid import mermaid
from amqtask.core.flow_svg import svg
from amqtask.errors import ConfigurationError

SVG = "{http://www.w3.org/2000/svg}"

TEXTS = st.text(max_size=12)
BOXES = st.builds(
    Box, TEXTS, TEXTS, TEXTS, st.sampled_from([None, "SUCCESS", "FAILURE", "PROGRESS"])
)
FLOWS: st.SearchStrategy[Flow] = st.recursive(
    BOXES,
    lambda inner: st.one_of(
        st.builds(Steps, st.lists(inner, min_size=1, max_size=4).map(tuple)),
        st.builds(Beside, TEXTS, st.lists(inner, max_size=4).map(tuple)),
        st.builds(
            lambda box, flow, error: Box(box.title, asides=(Aside("then", flow, error),)),
            BOXES,
            inner,
            st.booleans(),
        ),
        st.builds(
            lambda flow, aside: Steps((flow,), (Aside("on error", aside, True),)), inner, inner
        ),
    ),
    max_leaves=12,
)


def row(count: int, state: str | None = None) -> Steps:
    return Steps(tuple(Box(f"t({number})", state=state) for number in range(count)))


def rectangles(picture: str) -> list[tuple[float, float, float, float]]:
    """Where the boxes are: left, top, right, bottom."""
    return [
        (x, y, x + float(rect.attrib["width"]), y + float(rect.attrib["height"]))
        for group in ET.fromstring(picture).iter(f"{SVG}g")
        for rect in group.iter(f"{SVG}rect")
        for x, y in [(float(rect.attrib["x"]), float(rect.attrib["y"]))]
    ]


def test_a_long_row_is_folded_and_says_what_is_left_out() -> None:
    parts = list(boxes(folded(row(1000))))

    assert [box.title for box in parts[:5]] == [f"t({number})" for number in range(5)]
    assert (parts[5].title, parts[5].detail, parts[5].count) == ("… 993 more", "993 t", 993)
    assert [box.title for box in parts[6:]] == ["t(998)", "t(999)"]
    assert folded(row(STEPS_MAX)) == row(STEPS_MAX)


def test_what_failed_is_not_folded_away() -> None:
    members = [Box(str(number), state="SUCCESS") for number in range(1000)]
    for number in (300, 400, 500, 600):
        members[number] = Box(str(number), state="FAILURE")

    found = list(boxes(folded(Beside("group", tuple(members)))))

    assert [box.title for box in found if box.state == "FAILURE"] == ["300", "400", "500"]
    assert found[-3].detail == "496 SUCCESS, 1 FAILURE"
    assert sum(box.count for box in found) == 1000
    assert len(folded_parts(Beside("group", tuple(members[:BESIDE_MAX])))) == BESIDE_MAX


def folded_parts(flow: Beside) -> tuple[Flow, ...]:
    found = folded(flow)
    assert isinstance(found, Beside)
    return found.parts


def test_frames_in_frames_end_somewhere() -> None:
    flow: Flow = Box("t")
    for _ in range(200):
        flow = Beside("group", (flow, Box("u")))

    assert "deeper" in mermaid(flow)
    assert svg(flow).count('class="f"') <= DEPTH_MAX


def test_mermaid() -> None:
    flow = Steps(
        (
            Box("a", asides=(Aside("on error", Box("oops"), error=True),)),
            Beside("group of 2", (Box("b", state="SUCCESS"), Box('say "<hi>"', "queue q"))),
            Box("c"),
        )
    )

    assert mermaid(flow).splitlines()[:12] == [
        "flowchart LR",
        '    n1["a"]',
        '    n2["oops"]',
        '    subgraph g3["group of 2"]',
        '        n4["b<br/>SUCCESS"]:::success',
        '        n5["say #34;#60;hi#62;#34;<br/>queue q"]',
        "    end",
        '    n6["c"]',
        '    n1 -.->|"on error"| n2',
        "    n1 --> g3",
        "    g3 --> n6",
        "    classDef success fill:#d7f0e2,stroke:#0b6e4f",
    ]


@settings(deadline=None)
@given(FLOWS)
def test_whatever_a_flow_is_its_picture_is_well_formed_and_nothing_overlaps(flow: Flow) -> None:
    picture = svg(flow)
    found = rectangles(picture)
    root = ET.fromstring(picture)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])

    assert found or not list(boxes(flow))
    for left, top, right, bottom in found:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    for one, other in itertools.combinations(found, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)


@settings(deadline=None)
@given(FLOWS)
def test_whatever_a_flow_is_its_mermaid_names_are_declared(flow: Flow) -> None:
    lines = [line.strip() for line in mermaid(flow).splitlines()]
    declared = {line.partition("[")[0].removeprefix("subgraph ") for line in lines if "[" in line}

    arrows = [line for line in lines if ">" in line and "[" not in line]
    for line in arrows:
        first, *_, last = line.split()
        assert {first, last} <= declared
    assert lines.count("end") == sum(line.startswith("subgraph ") for line in lines)


@settings(deadline=None)
@given(FLOWS)
def test_a_flow_survives_json(flow: Flow) -> None:
    assert from_json(to_json(flow)) == flow


@pytest.mark.parametrize("text", ["", "[]", '{"type":"box"}', '{"type":"other"}', b"\xff"])
def test_what_is_no_flow_is_one_sentence(text: str | bytes) -> None:
    with pytest.raises(ConfigurationError, match="no graph that amqtask has written"):
        from_json(text)


def test_a_thousand_by_a_thousand_is_small() -> None:
    flow = Steps(tuple(Beside("group", row(1000).parts) for _ in range(50)))

    assert len(svg(flow)) < 40_000
    assert len(mermaid(flow)) < 20_000
