"""Results and exceptions on the wire, compared with Celery's backends."""

from __future__ import annotations

import errno
import importlib
import json
import sys
import textwrap
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask import errors
from amqtask.core import result, serialization
from amqtask.core.codec import Limits
from amqtask.core.message import Properties
from amqtask.core.result import (
    Record,
    RemoteTraceback,
    attach_remote_traceback,
    decode_result,
    encode_result,
    exception_from_wire,
    exception_to_wire,
    format_traceback,
)
from amqtask.errors import ContentRefused, DecodeError, EncodeError, PayloadTooLarge, TaskFailed

celery: Any = importlib.import_module("celery")
celery_base: Any = importlib.import_module("celery.backends.base")

ID = "7c5f8e0a-8d0e-4f0c-9c66-3a4f0f0f6e11"
ANY = serialization.accepted(("json", "msgpack", "pickle"))


@pytest.fixture(scope="module")
def backend() -> Any:
    app = celery.Celery("peer", broker="memory://", set_as_current=False)
    return celery_base.Backend(app, serializer="json")


# ---------------------------------------------------------------- records


@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle"])
def test_round_trip(serializer: str) -> None:
    record = Record(
        task_id=ID,
        status="SUCCESS",
        result={"a": [1, 2.5, None]},
        traceback=None,
        children=[[["child", ID], None]],
        date_done="2030-01-01T00:00:00+00:00",
        group_id="g",
        parent_id="p",
        name="shop.add",
        args=[1],
        kwargs={"x": 2},
        worker="w@h",
        retries=0,
        queue="q",
    )
    envelope = encode_result(record, serializer)

    assert decode_result(envelope.properties, envelope.body, accept=ANY) == record


def test_the_smallest_record_has_celerys_fields() -> None:
    envelope = encode_result(Record(task_id=ID, status="SUCCESS", result=3), correlation_id="c")

    assert json.loads(envelope.body) == {
        "status": "SUCCESS",
        "result": 3,
        "traceback": None,
        "children": [],
        "date_done": None,
        "task_id": ID,
    }
    assert envelope.properties == Properties(
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=2,
        priority=0,
        correlation_id="c",
    )


def test_celery_reads_our_record(backend: Any) -> None:
    failure = Record(
        task_id=ID,
        status="FAILURE",
        result=exception_to_wire(KeyError("x")),
        traceback="Traceback",
        date_done="2030-01-01T00:00:00+00:00",
    )
    meta = backend.meta_from_decoded(backend.decode(encode_result(failure).body))

    assert isinstance(meta["result"], KeyError)
    assert meta["result"].args == ("x",)
    assert (meta["status"], meta["task_id"]) == ("FAILURE", ID)


def test_we_read_celerys_record(backend: Any) -> None:
    stored = backend.encode_result(ValueError("bad", 5), "FAILURE")
    meta = backend._get_result_meta(stored, "FAILURE", "Traceback …", None) | {"task_id": ID}
    body = backend.encode(meta).encode()

    record = decode_result(
        Properties(content_type="application/json", content_encoding="utf-8"), body
    )

    assert (record.task_id, record.status, record.traceback) == (ID, "FAILURE", "Traceback …")
    assert record.date_done
    made = exception_from_wire(record.result)
    assert isinstance(made, ValueError)
    assert made.args == ("bad", 5)


def test_the_correlation_id_stands_in_for_the_task_id() -> None:
    properties = Properties(content_type="application/json", correlation_id=ID)

    assert decode_result(properties, b'{"status":"SUCCESS"}').task_id == ID


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not JSON"),
        (b"[1]", "must be a mapping"),
        (b"null", "must be a mapping"),
        (b"{}", "must name its task"),
        (b'{"task_id":5,"status":"SUCCESS"}', "must name its task, not 5"),
        (b'{"task_id":"t"}', "status of a result must be a string, not None"),
        (b'{"task_id":"t","status":5}', "status of a result must be a string"),
        (b'{"task_id":"t","status":"SUCCESS","children":5}', "children of a result must be a list"),
    ],
)
def test_what_is_no_record(body: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        decode_result(Properties(content_type="application/json"), body)


def test_a_refused_record() -> None:
    envelope = encode_result(Record(task_id=ID, status="SUCCESS"), "pickle")

    with pytest.raises(ContentRefused):
        decode_result(envelope.properties, envelope.body)


@given(
    st.binary()
    | st.dictionaries(
        st.sampled_from(["task_id", "status", "result", "traceback", "children", "retries"]),
        st.none() | st.integers() | st.text() | st.lists(st.text()),
    ).map(lambda v: json.dumps(v).encode())
)
def test_whatever_arrives_is_a_record_or_a_decode_error(body: bytes) -> None:
    try:
        record = decode_result(Properties(content_type="application/json"), body)
    except DecodeError:
        return
    assert record.task_id
    assert record.status


def test_a_return_value_without_a_form() -> None:
    with pytest.raises(
        EncodeError,
        match=rf"^The result of task {ID}: \['x'\] is of type set, which json cannot write\.$",
    ):
        encode_result(Record(task_id=ID, status="SUCCESS", result={"x": {1}}))


def test_a_result_above_the_limit() -> None:
    with pytest.raises(
        PayloadTooLarge,
        match=rf"^The result of task {ID} is \d+ bytes, above message_max_bytes \(500\)",
    ):
        encode_result(
            Record(task_id=ID, status="SUCCESS", result="x" * 500),
            limits=Limits(message_max_bytes=500),
        )


# ---------------------------------------------------------------- exceptions


class ShopError(Exception):
    class Nested(Exception):
        pass


class NeedsTwo(Exception):
    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(f"{code}: {text}")


class NeedsItsAttribute(NeedsTwo):
    def __str__(self) -> str:
        return f"code {self.code}"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __reduce__(self) -> Any:
        raise RuntimeError("no reduce")


def through(error: BaseException, serializer: str = "json") -> Exception:
    record = Record(task_id=ID, status="FAILURE", result=exception_to_wire(error, serializer))
    envelope = encode_result(record, serializer)
    return exception_from_wire(decode_result(envelope.properties, envelope.body, accept=ANY).result)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        KeyError("x"),
        ValueError(),
        ValueError("a", 1, None, [2.5]),
        ValueError({1, 2}),
        ValueError(object),
        ValueError(b"\xff"),
        ShopError.Nested("deep"),
        ZeroDivisionError("division by zero"),
        OSError(errno.ENOENT, "gone"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        NeedsTwo(1, "x"),
        SystemExit(3),
    ],
    ids=repr,
)
def test_the_wire_form_is_celerys(backend: Any, error: BaseException) -> None:
    ours = json.loads(serialization.dumps(exception_to_wire(error), "json"))
    theirs = json.loads(backend.encode(backend.prepare_exception(error)))

    assert ours == theirs


@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle"])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad", 5),
        KeyError("x"),
        FileNotFoundError(errno.ENOENT, "gone"),
        ShopError.Nested("deep"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        TimeoutError(),
        errors.WorkerLostError("lost"),
        errors.NotRegistered("shop.add"),
        errors.Reject("why", requeue=True),
        errors.OperationRefused(404, "NOT_FOUND"),
        errors.OperationRefused(404, "NOT_FOUND", "There is no queue 'x'."),
    ],
    ids=repr,
)
def test_an_exception_comes_back_as_its_own_class(error: Exception, serializer: str) -> None:
    made = through(error, serializer)

    assert type(made) is type(error)
    assert made.args == error.args
    assert str(made) == str(error)


def test_errors_of_amqtask_keep_their_fields() -> None:
    refused = through(errors.OperationRefused(404, "NOT_FOUND"))
    assert isinstance(refused, errors.OperationRefused)
    assert (refused.code, refused.text) == (404, "NOT_FOUND")

    topology = through(errors.TopologyError(("a: b", "c: d")))
    assert isinstance(topology, errors.TopologyError)
    assert list(topology.problems) == ["a: b", "c: d"]
    assert str(topology) == "a: b\nc: d"


def test_every_error_of_amqtask_survives() -> None:
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            error = kind(
                *{
                    "TopologyError": (("p",),),
                    "OperationRefused": (1, "t"),
                    "TaskFailed": ("a.B", "m", "t"),
                }.get(name, ("text",))
            )
            made = through(error)
            assert type(made) is kind
            assert str(made) == str(error)


def test_a_class_that_cannot_be_called_again_is_still_itself() -> None:
    made = through(NeedsTwo(4, "text"))

    assert type(made) is NeedsTwo
    assert str(made) == "4: text"


def test_a_class_that_cannot_be_made_again_is_a_task_failed() -> None:
    made = through(NeedsItsAttribute(4, "text"))

    assert isinstance(made, TaskFailed)
    assert made.exc_type == "NeedsItsAttribute"
    assert made.message == "4: text"


def test_a_class_that_does_not_exist_here() -> None:
    made = exception_from_wire(
        {"exc_type": "Missing", "exc_module": "shop.errors", "exc_message": ["a", 1]}
    )

    assert isinstance(made, TaskFailed)
    assert (made.exc_type, made.exc_module) == ("Missing", "shop.errors")
    assert str(made) == "shop.errors.Missing: ('a', 1)"
    assert exception_to_wire(made)["exc_type"] == "Missing"


def test_a_task_failed_travels_as_what_it_stands_for() -> None:
    assert isinstance(through(TaskFailed("ValueError", "builtins", "bad")), ValueError)


def test_local_classes_are_task_failed() -> None:
    class Local(Exception):
        pass

    made = through(Local("x"))

    assert isinstance(made, TaskFailed)
    assert "<locals>.Local" in made.exc_type


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_what_would_end_the_caller_is_a_task_failed(error: BaseException) -> None:
    made = through(error)

    assert isinstance(made, TaskFailed)
    assert made.exc_type == type(error).__name__


called: list[object] = []


def record_call(*args: object) -> None:
    called.append(args)


class NotAnException:
    def __init__(self, *args: object) -> None:
        called.append(args)


class Computed(type):
    def __getattr__(cls, name: str) -> object:
        called.append(name)
        return ValueError


class WithMeta(metaclass=Computed):
    pass


@pytest.mark.parametrize(
    ("module", "path"),
    [
        ("os", "system"),
        ("os", "path.join"),
        ("builtins", "eval"),
        ("builtins", "print"),
        ("builtins", "object"),
        ("builtins", "type"),
        ("builtins", "BaseException"),
        ("builtins", "ValueError.__init__"),
        ("builtins", "ValueError.__class__"),
        ("builtins", "ValueError.mro"),
        ("builtins", ""),
        ("builtins", "."),
        ("builtins", "ValueError."),
        ("builtins", "ValueError()"),
        ("", "ValueError"),
        ("no.such.module", "ValueError"),
        (__name__, "record_call"),
        (__name__, "NotAnException"),
        (__name__, "WithMeta.anything"),
        (__name__, "sys.modules"),
        (__name__, "result.sys.exit"),
        (__name__, "errors.WorkerLostError"),
    ],
)
def test_nothing_but_an_exception_class_is_ever_called(module: str, path: str) -> None:
    called.clear()  # pytest looks at every name of this module while it collects

    made = exception_from_wire({"exc_type": path, "exc_module": module, "exc_message": ["x"]})

    assert isinstance(made, TaskFailed)
    assert called == []


anything: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    anything
    | st.fixed_dictionaries(
        {},
        optional={
            "exc_type": anything
            | st.sampled_from(["ValueError", "OSError", "UnicodeDecodeError", "ExceptionGroup"]),
            "exc_module": anything | st.just("builtins"),
            "exc_message": anything,
        },
    )
)
def test_whatever_arrives_becomes_an_exception(wire: object) -> None:
    assert isinstance(exception_from_wire(wire), Exception)


def test_modules_are_imported_only_when_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "wireshop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "errors.py").write_text("class OutOfStock(Exception):\n    pass\n")
    (package / "broken.py").write_text("raise SystemError('at import')\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    wire = {"exc_type": "OutOfStock", "exc_module": "wireshop.errors", "exc_message": ["x"]}

    try:
        assert isinstance(exception_from_wire(wire), TaskFailed)
        assert isinstance(
            exception_from_wire(wire, import_from=("wire", "wireshop.errors2")), TaskFailed
        )
        assert "wireshop" not in sys.modules
        assert isinstance(
            exception_from_wire(
                wire | {"exc_module": "wireshop.broken"}, import_from=("wireshop",)
            ),
            TaskFailed,
        )
        made = exception_from_wire(wire, import_from=("wireshop",))
        assert type(made).__qualname__ == "OutOfStock"
        assert not isinstance(made, TaskFailed)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "wireshop"]:
            del sys.modules[name]


def test_celerys_exceptions_become_ours_where_celery_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wires = {
        ("billiard.exceptions", "SoftTimeLimitExceeded"): errors.SoftTimeLimitExceeded,
        ("billiard.exceptions", "TimeLimitExceeded"): errors.TimeLimitExceeded,
        ("billiard.exceptions", "WorkerLostError"): errors.WorkerLostError,
        ("celery.exceptions", "TaskRevokedError"): errors.TaskRevokedError,
        ("celery.exceptions", "NotRegistered"): errors.NotRegistered,
        ("celery.exceptions", "Reject"): errors.Reject,
    }
    for module in ("celery.exceptions", "billiard.exceptions"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for (module, name), kind in wires.items():
        made = exception_from_wire({"exc_type": name, "exc_module": module, "exc_message": ["x"]})
        assert type(made) is kind

    made = exception_from_wire(
        {"exc_type": "builtins", "exc_module": "celery.exceptions", "exc_message": []}
    )
    assert isinstance(made, TaskFailed)


def test_celerys_exceptions_are_its_own_where_it_is_loaded() -> None:
    exceptions: Any = importlib.import_module("celery.exceptions")
    made = through(exceptions.SoftTimeLimitExceeded())

    assert type(made) is exceptions.SoftTimeLimitExceeded


@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle"])
def test_broken_exceptions_still_travel(serializer: str) -> None:
    unprintable = through(Unprintable("x", Unprintable()), serializer)
    assert type(unprintable) in (Unprintable, TaskFailed)

    class Strange(Exception):
        args = property(lambda self: 1 / 0)

    assert isinstance(through(Strange("x"), serializer), TaskFailed)
    assert isinstance(through(ExceptionGroup("g", [ValueError("x")]), serializer), Exception)
    circular: list[object] = []
    circular.append(circular)
    assert isinstance(through(ValueError(circular, "\ud800", 2**100), serializer), ValueError)


# ---------------------------------------------------------------- tracebacks


def test_a_raised_result_prints_the_remote_traceback() -> None:
    remote = (
        'Traceback (most recent call last):\n  File "shop.py", line 3, in add\nValueError: bad\n'
    )
    error = attach_remote_traceback(through(ValueError("bad")), remote)

    try:
        raise error
    except ValueError as caught:
        printed = "".join(traceback.format_exception(caught))

    assert printed.index('File "shop.py", line 3, in add') < printed.index("direct cause")
    assert printed.rstrip().endswith("ValueError: bad")
    assert isinstance(error.__cause__, RemoteTraceback)
    assert error.__cause__.text == remote


@pytest.mark.parametrize("text", [None, ""])
def test_without_a_remote_traceback_nothing_is_attached(text: str | None) -> None:
    assert attach_remote_traceback(ValueError("x"), text).__cause__ is None


def caught(source: str, module: str, **names: object) -> BaseException:
    """The exception of ``source``, run as if it were the code of ``module``."""
    try:
        exec(compile(textwrap.dedent(source), f"<{module}>", "exec"), {"__name__": module, **names})
    except BaseException as error:  # noqa: BLE001 - whatever the code raises is what the test wants
        return error.with_traceback(error.__traceback__.tb_next if error.__traceback__ else None)
    raise AssertionError("the code raised nothing")


def test_frames_of_amqtask_at_the_top_are_left_out() -> None:
    user = {"__name__": "shop"}
    exec(compile("def task():\n    raise ValueError('bad')\n", "<shop>", "exec"), user)
    error = caught("task()", "amqtask.worker.slots.execution", task=user["task"])

    text = format_traceback(error)

    assert text.startswith("Traceback (most recent call last):\n")
    assert '"<shop>", line 2, in task' in text
    assert "amqtask.worker" not in text
    assert text.endswith("ValueError: bad\n")


def test_a_traceback_of_nothing_but_our_frames_keeps_them() -> None:
    error = caught("raise ValueError('bad')", "amqtask.worker.slots.execution")

    assert "<amqtask.worker.slots.execution>" in format_traceback(error)


def test_a_task_whose_module_only_sounds_like_ours() -> None:
    assert "<amqtasks.shop>" in format_traceback(caught("raise ValueError('bad')", "amqtasks.shop"))


def test_causes_are_part_of_it() -> None:
    error = caught("try:\n  1/0\nexcept Exception as e:\n  raise ValueError('bad') from e", "shop")

    assert "ZeroDivisionError" in format_traceback(error)


def test_broken_exceptions_have_a_traceback() -> None:
    assert "Unprintable" in format_traceback(caught("raise kind('x')", "shop", kind=Unprintable))
    assert format_traceback(ValueError("\ud800")).encode()


def test_a_long_traceback_loses_its_middle() -> None:
    text = format_traceback(caught("raise ValueError('x' * 200_000)", "shop"))

    assert len(text) < result.TRACEBACK_CHARS + 100
    assert "characters left out" in text
    assert text.startswith("Traceback")


def test_a_tree_travels_as_far_as_serializers_go() -> None:
    chain: object = None
    for number in range(2000):
        chain = ((f"link {number}", chain), None)

    record = Record(task_id="x", status="SUCCESS", children=[result.trimmed(chain)])

    envelope = encode_result(record)
    read: Any
    (read,) = decode_result(
        envelope.properties, envelope.body, accept=ANY, limits=Limits()
    ).children
    links = []
    while read is not None:
        (name, read), _ = read
        links.append(name)
    assert links == [f"link {number}" for number in range(1999, 1898, -1)]


def test_members_are_trimmed_like_parents() -> None:
    inner: tuple[object, object] = (("group", (("before", None), None)), [(("a", None), None)])

    assert result.trimmed(inner) == inner
    assert result.trimmed(inner, 1) == inner
    assert result.trimmed(inner, 0) == (("group", None), [])
