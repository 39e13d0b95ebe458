"""``amqtask graph``: draw a workflow, or what became of one."""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amqtask.cli.flags import AppOption
from amqtask.cli.target import Target
from amqtask.errors import AmqtaskError, ConfigurationError

if TYPE_CHECKING:
    from amqtask.core.flow import Flow

app = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})


class Format(enum.StrEnum):
    """What a workflow is drawn as."""

    MERMAID = "mermaid"
    SVG = "svg"


@app.command()
def graph(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="module:name of a signature (or of a function that makes one), an expression of the app's tasks as in 'add.s(1) | add.s(2)', or a file: a signature as JSON, or what AsyncResult.graph_json() gave.",
        ),
    ],
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            show_default=False,
            help="mermaid, or svg. Else as the name after --output ends; else mermaid.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", show_default=False, help="Write there; else print."
        ),
    ] = None,
    app_name: AppOption = None,
) -> None:
    """Draw a workflow, before it is sent or with the states of its results. Nothing is sent, and no broker is asked."""
    from amqtask.core import flow_mermaid, flow_svg

    if form is None:
        form = _form_of(output)
    flow = _flow(what, context.obj.override(app_name, None))
    text = flow_svg.svg(flow) if form is Format.SVG else flow_mermaid.mermaid(flow)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigurationError(f"{output} cannot be written: {error.strerror}.") from None


def _form_of(output: Path | None) -> Format:
    ending = "" if output is None else output.suffix.lower()
    if ending in (".png", ".pdf", ".jpg", ".jpeg", ".gif", ".webp", ".dot"):
        raise ConfigurationError(
            f"A workflow is drawn as mermaid or svg, not as {ending[1:]}: name a file that ends in .svg or .mmd."
        )
    return Format.SVG if ending == ".svg" else Format.MERMAID


def _flow(what: str, target: Target) -> Flow:
    from amqtask.canvas.graph import flow_of

    if what == "-" or what.endswith(".json") or Path(what).is_file():
        return _from_file(what)
    sig = _signature(what, target)
    try:
        return flow_of(sig)
    except AmqtaskError:
        raise
    except Exception as error:  # noqa: BLE001  # what a generator of members raises, which is asked for them only here
        raise ConfigurationError(f"{what!r} cannot be drawn: {error!r}.") from None


# ---------------------------------------------------------------- a file


def _from_file(name: str) -> Flow:
    from amqtask.canvas.graph import flow_of
    from amqtask.core.flow import from_json

    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name} is no text.") from None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name} is no JSON: {error}.") from None
    if isinstance(found, Mapping) and "type" in found:
        return from_json(text)
    if isinstance(found, list):
        return _of_ids(found)
    return flow_of(found)


class _Unknown:
    """Makes handles of which nothing is known: for the ids in a file."""

    def AsyncResult(self, task_id: str, *, parent: Any = None) -> Any:  # noqa: N802  # as of an app
        from amqtask.results.handle import AsyncResult

        return AsyncResult.of(None, task_id, None, None, parent)


def _of_ids(form: list[Any]) -> Flow:
    from amqtask.results.picture import flow_of
    from amqtask.results.tree import result_from_tuple

    try:
        return flow_of(result_from_tuple(form, _Unknown()))
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


# ---------------------------------------------------------------- an app's


def _signature(what: str, target: Target) -> Mapping[str, Any]:
    from amqtask.task import Task

    module, colon, name = what.partition(":")
    if colon and name.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        from amqtask.loading import load_value

        if target.has_app():
            target.load_app()
        found = load_value(what)
    else:
        found = _evaluated(what, target)
    if isinstance(found, Task):  # to call it would run it
        raise ConfigurationError(
            f"{what} is a task, not a call of one: write {found.name.rpartition('.')[2]}.s(…)."
        )
    if callable(found) and not isinstance(found, Mapping):
        try:
            found = found()
        except Exception as error:  # noqa: BLE001  # whatever the user's function raises
            raise ConfigurationError(f"Calling {what} failed: {error!r}.") from None
    if not isinstance(found, Mapping):
        raise ConfigurationError(
            f"{what} is no signature, but of type {type(found).__name__}; write one like add.s(1, 2)."
        )
    return found


def _evaluated(text: str, target: Target) -> Any:
    """The value of an expression over the tasks of the app, by the last part of their names, and the primitives."""
    from amqtask.canvas.maps import chunks, xmap, xstarmap
    from amqtask.canvas.primitives import chain, chord, group
    from amqtask.canvas.signature import signature

    if not target.has_app():
        raise ConfigurationError(
            f"{text!r} is no file and no module:name; name the app whose tasks it is written with, with -A."
        )
    app = target.load_app()
    names: dict[str, Any] = {name.rpartition(".")[2]: task for name, task in app.tasks.items()}
    primitives = (chain, chord, chunks, group, signature, xmap, xstarmap)
    names |= {primitive.__name__: primitive for primitive in primitives}
    names |= {"app": app, "__builtins__": {"dict": dict, "list": list, "range": range}}
    try:
        return eval(text, names)  # the user's own words, in the user's own process
    except SyntaxError as error:
        raise ConfigurationError(f"{text!r} cannot be read: {error.msg}.") from None
    except Exception as error:  # noqa: BLE001  # whatever they come to
        raise ConfigurationError(f"{text!r} cannot be read: {error!r}.") from None
