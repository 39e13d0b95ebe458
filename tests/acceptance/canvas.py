"""The app that the nodes of the canvas tests run; copied into each test's folder."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from amqtask import App, Ignore, Reject, Task
from amqtask.canvas.primitives import chain, chord, group

HERE = Path(__file__).parent
app = App(
    "canvas",
    topology=HERE / "topology.yaml",
    settings=json.loads((HERE / "settings.json").read_text()),
)


def log(event: str, what: object) -> None:
    line = f"{event} {os.getpid()} {what}\n"
    descriptor = os.open(HERE / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


@app.task
def add(x: Any, y: Any, z: int = 0) -> Any:
    return x + y + z if z else x + y


@app.task
def same(x: Any) -> Any:
    return x


@app.task
def total(xs: list[int]) -> int:
    return sum(xs)


@app.task
def note(what: Any) -> Any:
    log("end", what)
    return what


@app.task
def fail(*_args: Any) -> None:
    raise ValueError("no luck")


@app.task
def steer(how: str, tag: str = "", *_args: Any) -> str:
    """End in another way than by returning."""
    if tag:
        log("start", tag)
    if how == "ignore":
        raise Ignore("as asked")
    if how == "reject":
        raise Reject("as asked")
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hang":
        time.sleep(60)
    return how


@app.task
def one(x: Any) -> Any:
    return x


@app.task(bind=True, max_retries=2)
def retried(self: Task[..., Any], x: int) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return x + self.request.retries


@app.task(bind=True, max_retries=1)
def hopeless(self: Task[..., Any]) -> None:
    raise self.retry(exc=ValueError("again"), countdown=0)


@app.task
def unwritable(*_args: Any) -> object:
    return object()


@app.task
def old_errback(task_id: str) -> None:
    log("end", f"old {task_id}")


@app.task
def new_errback(request: Any, error: Exception, traceback: str | None) -> None:
    told = "ValueError" in (traceback or "")
    log("end", f"new {request.id} {request.task} {error!r} {told}")


@app.task(bind=True)
def becomes(self: Task[..., Any], kind: str, *args: Any) -> Any:
    """Put something in this task's place."""
    sigs: dict[str, Any] = {
        "task": lambda: add.s(*args),
        "chain": lambda: chain(add.s(*args), add.s(10)),
        "group": lambda: group(add.s(1, x) for x in args),
        "chord": lambda: chord([add.s(1, x) for x in args], total.s()),
        "branch": lambda: chain(add.s(1, 1), group(add.s(x) for x in args)),
        "fail": lambda: fail.s(),
        "failing group": lambda: group(fail.si(), same.si(1)),
        "tells": lambda: tells.s(),
    }
    return self.replace(sigs[kind]())


@app.task(bind=True)
def swapped(
    self: Task[..., Any], x: Any, after: str = "", failed: str = "", *, fails: bool = False
) -> Any:
    """Be replaced by a chain with callbacks of its own, which fails or comes to the argument."""
    inner: Any = chain(same.s(x), fail.s() if fails else same.s())
    if after:
        inner.link(note.si(after))
    if failed:
        inner.link_error(note.si(failed))
    return self.replace(inner)


@app.task(bind=True)
def nothing(self: Task[..., Any], _x: Any) -> Any:
    return self.replace(chain())


@app.task(bind=True)
def to_all(self: Task[..., Any], xs: list[Any], y: Any) -> Any:
    return self.replace(group([add.s(x, y) for x in xs]))


@app.task(bind=True)
def begin(self: Task[..., Any], tag: str, *, inner: bool = False, back: bool = False) -> Any:
    """Say ``In``, be replaced by another and oneself, say ``Out``; the other does so, too, one time deeper."""
    name = "B" if inner else "A"
    log("end", f"{tag} {'Out' if back else 'In'} {name}")
    if back:
        return tag
    middle = note.si(f"{tag} C") if inner else begin.si(tag, inner=True)
    return self.replace(chain(middle, begin.si(tag, inner=inner, back=True)))


@app.task(bind=True)
def down(self: Task[..., Any], n: int) -> Any:
    """Be replaced by itself until nothing is left."""
    return self.replace(down.s(n - 1)) if n else "down"


@app.task(bind=True)
def adds(self: Task[..., Any], *xs: int) -> int:
    for x in xs:
        self.add_to_chord(same.s(x))
    return 0


@app.task(bind=True)
def adds_chord(self: Task[..., Any], xs: list[int], y: int) -> int:
    self.add_to_chord(group([add.s(x, y) for x in xs]) | total.s())
    return 0


@app.task(bind=True)
def adds_dying(self: Task[..., Any]) -> None:
    """Add a part to its chord that ends their process."""
    self.add_to_chord(steer.s("die"))


@app.task(bind=True)
def tells(self: Task[..., Any], *_args: Any) -> dict[str, Any]:
    request = self.request
    return {
        "id": request.id,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "chain": len(request.chain or ()),
        "callbacks": len(request.callbacks or ()),
        "stamps": dict(request.stamps or {}),
        "nesting": request.replaced_task_nesting,
    }


@app.task
async def aadd(x: Any, y: Any) -> Any:
    return x + y


@app.task(bind=True)
async def abecomes(self: Task[..., Any], x: int) -> Any:
    return self.replace(aadd.s(x, 1) | aadd.s(1))


@app.task
async def ahang(tag: str) -> None:
    log("start", tag)
    await asyncio.sleep(60)


@app.task(acks_late=False)
def early(x: Any) -> Any:
    return x


@app.task(acks_late=False)
def dies_joining(where: str, x: Any) -> Any:
    """End a part in a process that is killed at this point of what follows."""
    from amqtask.amqp.threaded.drain import Drain
    from amqtask.amqp.threaded.join import Joiner
    from amqtask.worker.settling import reminders
    from amqtask.worker.settling.followups import FollowUps

    reminders.LATER = 0.5
    method = {
        "publish": (FollowUps, "publish"),
        "look": (Joiner, "look"),
        "drain": (Drain, "_commit"),
        "end": (Drain, "_delete"),
    }
    setattr(*method[where], lambda *_args, **_kwargs: os.kill(os.getpid(), signal.SIGKILL))
    return x


@app.task(acks_late=False)
def dies_early(*args: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def last(*args: Any) -> Any:
    return args[-1]


@app.task(bind=True)
def replaced(self: Task[..., Any], *args: Any) -> Any:
    return self.replace(last.si(args[-1]))


@app.task
def begins(links: int) -> str:
    """Send a chain, and be its last link's parent."""
    sent = chain(*[same.si(number) for number in range(links)]).delay()
    return sent.id
