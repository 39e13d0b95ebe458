"""Only type-checked: what callers of tasks may rely on."""

from __future__ import annotations

from typing import Any, assert_type

from amqtask import (
    App,
    AsyncResult,
    CoroutineTask,
    EagerResult,
    GroupResult,
    ResultSet,
    Signature,
    Task,
    chain,
    chord,
    chunks,
    group,
    result_from_tuple,
    xmap,
)

app = App("typed", topology=None, publish_timeout=3.0)


@app.task
def add(a: int, b: int = 2) -> int:
    return a + b


@app.task(acks_late=False, autoretry_for=(OSError,), max_retries=None)
def shout(text: str, *, loud: bool) -> str:
    return text


@app.task(bind=True, time_limit=3)
def bound(self: Task[..., Any], key: str) -> list[str]:
    assert_type(self.request.retries, int)
    return [key]


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(queue="q")
async def fetch_more(url: str, times: int) -> None: ...


@app.task(bind=True)
async def bound_fetch(self: Task[..., Any], url: str) -> dict[str, int]:
    return {url: 1}


assert_type(add(1), int)
assert_type(add.delay(1, 2), AsyncResult[int])
assert_type(add.delay(1, b=2).get(), int)
assert_type(add.apply_async((1,), countdown=None, priority=3), AsyncResult[int])
assert_type(add.apply((1,)), EagerResult[int])
assert_type(add.delay_many([(1,), {"a": 1}]), list[AsyncResult[int]])
assert_type(shout.delay("a", loud=True), AsyncResult[str])
assert_type(bound.delay("k"), AsyncResult[list[str]])
assert_type(bound("k"), list[str])
assert_type(fetch.delay("u"), AsyncResult[bytes])
assert_type(fetch_more.delay("u", 3), AsyncResult[None])
assert_type(bound_fetch.delay("u"), AsyncResult[dict[str, int]])
assert_type(app.send_task("x", (1,)), AsyncResult[Any])
assert_type(app.AsyncResult("id"), AsyncResult[Any])
assert_type(app.registered("x"), Task[..., Any])
assert_type(add.delay(1).then(lambda result: result.get().bit_length()), AsyncResult[int])
assert_type(result_from_tuple((("a", None), None), app), AsyncResult[Any] | GroupResult)
assert_type(GroupResult("g", [add.delay(1), shout.apply(("a",))]).get(), list[Any])
assert_type(GroupResult.restore("g", {}, app=app), GroupResult | None)
assert_type(ResultSet(add.delay_many([(1,)])).completed_count(), int)


async def use() -> None:
    assert_type(await add.adelay(1), AsyncResult[int])
    assert_type(await (await add.adelay(1)), int)
    assert_type(await add.aapply_async((1,), queue="q"), AsyncResult[int])
    assert_type(await add.adelay_many([(1,)]), list[AsyncResult[int]])
    assert_type(await fetch("u"), bytes)
    assert_type(await fetch.adelay("u"), AsyncResult[bytes])
    assert_type(await bound_fetch("u"), dict[str, int])
    async with app, app.abatch():
        pass


def takes_any_task(task: Task[[str], Any]) -> None: ...


takes_any_task(fetch)


def takes_coroutine(task: CoroutineTask[[str], bytes]) -> None: ...


takes_coroutine(fetch)

with app as same, app.batch():
    assert_type(same, App)


# ---------------------------------------------------------------- workflows

assert_type(add.s(1), Signature[int])
assert_type(add.si(1).delay(), AsyncResult[int])
assert_type(fetch.s().apply_async(("u",)), AsyncResult[bytes])
assert_type(add.signature((1,), queue="q").set(priority=1), Signature[int])
assert_type(add.s(1) | shout.s(loud=True), chain[str])
assert_type((add.s(1) | add.s(2) | shout.s(loud=True)).delay().get(), str)
assert_type(add.s().clone((1,)), Signature[int])
assert_type(add.map([1, 2]), xmap[list[int]])
assert_type(add.starmap([(1, 2)]).delay().get(), list[int])
assert_type(add.chunks([(1, 2)], 10), chunks[list[list[int]]])
assert_type(app.signature("x"), Signature[Any])
parts = group(add.s(n) for n in range(3))
assert_type(parts.delay(), GroupResult)
assert_type(parts.apply(), GroupResult)
assert_type(parts | shout.s(loud=True), chord[str])
joined = chord([add.s(1)], shout.s(loud=True))
assert_type(joined, chord[str])
assert_type(chord((add.s(n) for n in range(3)), body=add.s(1)).delay().get(), int)
assert_type(chain(add.s(1), shout.s(loud=True)), chain[str])
assert_type(chain(add.s(1), add.s(2), add.s(3), shout.s(loud=True)).delay(), AsyncResult[str])
stamps: dict[str, Any] = {"order": "4711"}
assert_type(add.apply_async((1,), stamped_headers=list(stamps), **stamps), AsyncResult[int])
joined.link(add.s())
