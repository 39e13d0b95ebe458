"""The handle of a group: ``GroupResult``, a ``ResultSet`` with an id, which can be kept in a store and restored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from amqtask.errors import ResultError
from amqtask.results import keeping
from amqtask.results.base import Handles, Leaf, ResultBase
from amqtask.results.keeping import Store
from amqtask.results.result_set import ResultSet


class GroupResult(ResultSet):
    """The handle of a group.

    Args:
        id: the group's id.
        results: its members.
        parent: the handle of what came before it in its chain.
    """

    __slots__ = ()

    def __init__(
        self,
        id: str | None = None,  # noqa: A002  # Celery's name for it
        results: Iterable[ResultBase] = (),
        parent: ResultBase | None = None,
    ) -> None:
        super().__init__(results, parent)
        self.id = id

    @property
    def called(self) -> str:
        """What it is called in messages."""
        return f"group {self.id}"

    # ------------------------------------------------------------ keeping

    def save(self, store: Store | None = None) -> None:
        """Keep the ids in a store, for ``restore``.

        Args:
            store: what takes texts by name: a dictionary, a ``shelve``, a client of Redis.

        Raises:
            ConfigurationError: no store was given.
            TypeError: that is none.
            ValueError: the group has no id.
        """
        keeping.given(store, "save")[keeping.key(self.id)] = keeping.packed(self)

    def delete(self, store: Store | None = None) -> None:
        """Take it out of a store again; nothing when it is not there. Raises as ``save``."""
        found = keeping.given(store, "delete")
        try:
            del found[keeping.key(self.id)]
        except KeyError:
            pass

    @classmethod
    def restore(
        cls,
        id: str,  # noqa: A002  # Celery's name for it
        store: Store | None = None,
        *,
        app: Handles[Leaf],
    ) -> Self | None:
        """The group that was saved under this id, ``None`` when there is none.

        In another process than the one that sent it the handles tell their ids and can be revoked; asking them for a result
        raises ``ResultError``, because it does not come there.

        Args:
            id: the group's id.
            store: where it was saved.
            app: the app that it was sent with.

        Raises:
            ConfigurationError: no store was given.
            TypeError: that is none.
            ValueError: this is no id, or what is there is no group.
        """
        found, name = keeping.given(store, "restore"), keeping.key(id)
        try:
            text = found[name]
        except KeyError:
            return None
        if text is None:
            return None  # of a store that raises for nothing
        home, made = keeping.unpacked(text, app, GroupResult)
        for node in (made, *made.ancestors()):
            for leaf in node.leaves():
                entry = leaf.entry
                if home and entry is not None and entry.home != home and not entry.expected:
                    entry.fail(
                        ResultError(
                            f"The result of task {leaf.called} comes to the process that sent group {id} "
                            f"({home.partition('/')[0]}) and not here; ask that one for it."
                        )
                    )
        return cls(made.id, made.results, made.parent)

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            # by ids, not by comparing parents with parents: there may be many
            return self.as_list() == other.as_list() and self.results == other.results
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        shown = ", ".join(str(member.id) for member in self.results)
        return f"<{type(self).__name__}: {self.id} [{shown}]>"
