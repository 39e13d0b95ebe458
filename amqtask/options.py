"""The options of ``@app.task``: what they are called, and what values they take."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final, TypedDict

import msgspec

from amqtask.call import Expires, RetryOptions, check_expires, check_options
from amqtask.core.retry import Plan, RetryPolicy, Rules, seconds
from amqtask.errors import ConfigurationError
from amqtask.names import suggestion
from amqtask.settings import Limit

ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...] | list[type[BaseException]]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class TaskOptions(TypedDict, total=False):
    """Keyword arguments of ``@app.task`` besides ``bind``. Times are seconds; ``None`` leaves a choice to the settings."""

    name: str | None
    base: type | None
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
    retry_policies: Mapping[type[BaseException], RetryPolicy]
    retry_for: float | timedelta | None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Checked options of one task.

    ``max_retries=None`` retries for ever, which is also what ``retry_for`` without ``max_retries`` means: then the time decides.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    bind: bool = False
    base: Any = None  # Task or AbortableTask: ``App.task`` checks it
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
    time_limit: Limit | None = None
    soft_time_limit: Limit | None = None
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
    retry_policies: dict[Any, Any] = {}  # RetryPolicy by exception class: ``_policies`` checks them
    retry_for: float | None = None  # seconds

    @classmethod
    def parse(cls, values: Mapping[str, object], task: str) -> Options:
        """Check options as a user wrote them.

        Args:
            values: option by name.
            task: what the message calls the task.

        Raises:
            ConfigurationError: an unknown name, with the nearest known one, or a value that cannot work.
        """
        for name in values:
            if name not in cls.__struct_fields__:
                hint = suggestion(name, cls.__struct_fields__)
                raise ConfigurationError(f"Task {task} has an unknown option {name!r}.{hint}")
        checked = _checked(values, task)
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
        _check_retry_kwargs(options.retry_kwargs, task)
        hard, soft = options.time_limit, options.soft_time_limit
        if hard is not None and soft is not None and soft > hard:
            raise ConfigurationError(
                f"Task {task}: soft_time_limit ({soft:g} s) must not be above time_limit ({hard:g} s)."
            )
        return options

    def retry_plan(self) -> Plan:
        """How ``self.retry()`` retries when it is told nothing."""
        return Plan(
            max_retries=self.max_retries, delay=self.default_retry_delay, budget=self.retry_for
        )

    def retry_rules(self) -> Rules | None:
        """After which exceptions the task runs again by itself; ``None`` when after none."""
        if not self.autoretry_for and not self.retry_policies:
            return None
        own = dict(self.retry_kwargs)
        plan = Plan(
            max_retries=_first(own.pop("max_retries", None), self.max_retries),
            delay=_first(own.pop("countdown", None), self.default_retry_delay),
            backoff=float(self.retry_backoff),
            backoff_max=self.retry_backoff_max,
            jitter=self.retry_jitter,
            budget=self.retry_for,
        )
        return Rules(
            plan=plan,
            retried=self.autoretry_for,
            refused=self.dont_autoretry_for,
            policies={kind: plan.under(policy) for kind, policy in self.retry_policies.items()},
            options=own,
        )

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


def _checked(values: Mapping[str, object], task: str) -> dict[str, object]:
    """The options that take more than plain values."""
    checked: dict[str, object] = {
        name: _exception_types(name, value, task)
        for name, value in values.items()
        if name in _EXCEPTIONS
    }
    if values.get("retry_policies") is not None:
        checked["retry_policies"] = _policies(values["retry_policies"], task)
    if values.get("retry_for") is not None:
        checked["retry_for"] = budget = seconds(values["retry_for"])
        if budget is None:
            raise ConfigurationError(
                f"Task {task}: retry_for takes seconds or a timedelta, not {values['retry_for']!r}."
            )
        if "max_retries" not in values:
            checked["max_retries"] = None
    if values.get("expires") is not None:
        try:
            check_expires(values["expires"])
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"Task {task}: {error}") from None
        checked["expires"] = values["expires"]
    return checked


def _exception_types(name: str, value: object, task: str) -> tuple[type[BaseException], ...]:
    items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for item in items:
        if not (inspect.isclass(item) and issubclass(item, BaseException)):
            raise ConfigurationError(
                f"Task {task}: {name} takes an exception class or a tuple of them, not {item!r}."
            )
    return items


def _first(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _policies(value: object, task: str) -> dict[type[BaseException], RetryPolicy]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"Task {task}: retry_policies takes a mapping of exception classes to RetryPolicy, not {value!r}."
        )
    for kind, policy in value.items():
        _exception_types("retry_policies", kind, task)
        if isinstance(kind, (tuple, list)) or not isinstance(policy, RetryPolicy):
            raise ConfigurationError(
                f"Task {task}: retry_policies takes one RetryPolicy(…) for each exception class, not {policy!r}."
            )
    return dict(value)


_LIMITS: Final = ("max_retries", "countdown")
_RETRY_KWARGS: Final = (*_LIMITS, *RetryOptions.__annotations__)


def _check_retry_kwargs(values: Mapping[str, Any], task: str) -> None:
    for name, value in values.items():
        if name not in _RETRY_KWARGS:
            hint = suggestion(name, _RETRY_KWARGS)
            raise ConfigurationError(
                f"Task {task}: retry_kwargs has an unknown option {name!r}.{hint}"
            )
        if name == "max_retries" and value is not None and not (type(value) is int and value >= 0):
            raise ConfigurationError(
                f"Task {task}: retry_kwargs takes a whole number from 0 for max_retries, not {value!r}."
            )
        if name == "countdown" and value is not None and seconds(value) is None:
            raise ConfigurationError(
                f"Task {task}: retry_kwargs takes seconds for countdown, not {value!r}."
            )
    try:
        check_options({name: value for name, value in values.items() if name not in _LIMITS})
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"Task {task}, retry_kwargs: {error}") from None
