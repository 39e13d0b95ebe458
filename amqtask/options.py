"""The options of ``@app.task``: what they are called, and what values they take."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypedDict

import msgspec

from amqtask.call import Expires, check_expires
from amqtask.errors import ConfigurationError

ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...] | list[type[BaseException]]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class TaskOptions(TypedDict, total=False):
    """Keyword arguments of ``@app.task`` besides ``bind``. Times are seconds; ``None`` leaves a choice to the settings."""

    name: str | None
    typing: bool
    acks_late: bool | None
    ignore_result: bool | None
    track_started: bool | None
    serializer: str | None
    compression: str | None
    priority: int | None
    expires: Expires | None
    time_limit: float | None
    soft_time_limit: float | None
    queue: str | None
    exchange: str | None
    routing_key: str | None
    throws: ExceptionTypes
    autoretry_for: ExceptionTypes
    dont_autoretry_for: ExceptionTypes
    max_retries: int | None
    default_retry_delay: float
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    retry_kwargs: Mapping[str, Any]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Checked options of one task. The retry options describe a policy; ``max_retries=None`` retries for ever."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    bind: bool = False
    typing: bool = True
    acks_late: bool | None = None
    ignore_result: bool | None = None
    track_started: bool | None = None
    serializer: str | None = None
    compression: str | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    expires: Any = (
        None  # Expires, which is a union that msgspec cannot check: ``check_expires`` does
    )
    time_limit: Seconds | None = None
    soft_time_limit: Seconds | None = None
    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    throws: tuple[
        Any, ...
    ] = ()  # exception classes, here and below: ``_exception_types`` checks them
    autoretry_for: tuple[Any, ...] = ()
    dont_autoretry_for: tuple[Any, ...] = ()
    max_retries: Annotated[int, msgspec.Meta(ge=0)] | None = 3
    default_retry_delay: Annotated[float, msgspec.Meta(ge=0)] = 180.0
    retry_backoff: bool | float = False
    retry_backoff_max: Seconds = 600.0
    retry_jitter: bool = True
    retry_kwargs: dict[str, Any] = {}

    @classmethod
    def parse(cls, values: Mapping[str, object], task: str) -> Options:
        """Check options as a user wrote them.

        Args:
            values: option by name.
            task: what the message calls the task.

        Raises:
            ConfigurationError: an unknown name, with the nearest known one, or a value that cannot work.
        """
        checked: dict[str, object] = {}
        for name, value in values.items():
            if name not in cls.__struct_fields__:
                near = difflib.get_close_matches(name, cls.__struct_fields__, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ConfigurationError(f"Task {task} has an unknown option {name!r}.{hint}")
            if name in _EXCEPTIONS:
                checked[name] = _exception_types(name, value, task)
        if values.get("expires") is not None:
            try:
                check_expires(values["expires"])
            except (TypeError, ValueError) as error:
                raise ConfigurationError(f"Task {task}: {error}") from None
            checked["expires"] = values["expires"]
        plain = {name: value for name, value in values.items() if name not in checked}
        try:
            options = msgspec.convert(plain, cls)
        except msgspec.ValidationError as error:
            what, _, name = str(error).partition(" - at `$.")
            raise ConfigurationError(
                f"Task {task}, option {name.rstrip('`')}: {what[:1].lower()}{what[1:]}."
            ) from None
        options = msgspec.structs.replace(options, **checked)
        if options.retry_backoff < 0:
            raise ConfigurationError(
                f"Task {task}, option retry_backoff: it must not be below zero."
            )
        hard, soft = options.time_limit, options.soft_time_limit
        if hard is not None and soft is not None and soft > hard:
            raise ConfigurationError(
                f"Task {task}: soft_time_limit ({soft:g} s) must not be above time_limit ({hard:g} s)."
            )
        return options

    def call_defaults(self) -> dict[str, Any]:
        """What every call of the task starts from: the fields of ``Call`` that are set here."""
        return {name: value for name in _SENT if (value := getattr(self, name)) is not None}


_EXCEPTIONS: Final = ("throws", "autoretry_for", "dont_autoretry_for")
_SENT: Final = (
    "queue",
    "exchange",
    "routing_key",
    "priority",
    "serializer",
    "compression",
    "expires",
    "time_limit",
    "soft_time_limit",
)


def _exception_types(name: str, value: object, task: str) -> tuple[type[BaseException], ...]:
    items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for item in items:
        if not (inspect.isclass(item) and issubclass(item, BaseException)):
            raise ConfigurationError(
                f"Task {task}: {name} takes an exception class or a tuple of them, not {item!r}."
            )
    return items
