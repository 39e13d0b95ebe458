"""Only type-checked: each mistake is an error; were one not, its ignore would be reported as unused."""

from __future__ import annotations

from typing import Any

from amqtask import App, Task

app = App("typed")


@app.task
def add(a: int, b: int = 2) -> int:
    return a + b


@app.task(bind=True)
def bound(self: Task[..., Any], key: str) -> str:
    return key


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


add.delay("1")  # type: ignore[arg-type]
add.delay()  # type: ignore[call-arg]
add.delay(1, 2, 3)  # type: ignore[call-arg]
add.delay(1, c=3)  # type: ignore[call-arg]
add(None)  # type: ignore[arg-type]
bound.delay(bound, "k")  # type: ignore[call-arg, arg-type]
bound.delay(1)  # type: ignore[arg-type]
fetch.delay(1)  # type: ignore[arg-type]
number: str = add.delay(1).get()  # type: ignore[assignment]
body: bytes = fetch("u")  # type: ignore[assignment]
add.apply_async((1,), priorty=3)  # type: ignore[call-arg]
add.apply_async((1,), priority="high")  # type: ignore[arg-type]
add.apply_async(1)  # type: ignore[arg-type]
add.delay_many([1])  # type: ignore[list-item]


@app.task(acks_lat=True)  # type: ignore[call-overload, untyped-decorator]
def misspelt() -> None: ...


@app.task(max_retries="3")  # type: ignore[call-overload, untyped-decorator]
def mistyped() -> None: ...


@app.task(bind=True)  # type: ignore[arg-type]
def no_self(key: int) -> None: ...


async def use() -> None:
    await add.adelay("1")  # type: ignore[arg-type]
    await fetch.adelay(1)  # type: ignore[arg-type]
    await add.adelay_many([1])  # type: ignore[list-item]


add.s(1) | 5  # type: ignore[operator]
add.signature(5)  # type: ignore[arg-type]
add.s(1).link("name")  # type: ignore[arg-type]
text: str = add.si(1).delay().get()  # type: ignore[assignment]
