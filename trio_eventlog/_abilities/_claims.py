"""What a store says about itself; public as ``trio_eventlog.abc``."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class BoundedStore(Protocol):
    """A store that says how many events fit into one append."""

    @property
    def max_batch(self) -> int | None:
        """The largest batch that ``append_batch`` takes, 1 or more; the log never offers more at once.

        None, as without this attribute: at least 1,000 events, and as many as fit into memory.
        """
        ...


@runtime_checkable
class IdentifiedStore(Protocol):
    """A store that can tell its log from every other log."""

    @property
    def log_id(self) -> str | None:
        """A string that no other log has, the same each time this log is opened.

        A spill file with events of one log is refused by another. None, as without this attribute: a spill
        file of any log is accepted. A store that was opened read-only may have None.
        """
        ...


@runtime_checkable
class DurableStore(Protocol):
    """A store that says what an acknowledged append survives."""

    @property
    def survives(self) -> str:
        """``"process"`` if it survives a kill of the process, ``"power"`` if also a loss of power.

        An append of events that are already held acknowledges no less than one of new events. Without this
        attribute it is ``"process"``. A store that says ``"process"`` should also be a
        :class:`SyncableStore`.
        """
        ...


@runtime_checkable
class FileStore(Protocol):
    """A store that keeps its log in files, and says how a test can watch what it does to them.

    What it promises about a loss of power (:class:`DurableStore`) can be tested then:
    :func:`trio_eventlog.testing.check_store` does.
    """

    @property
    def file_access(self) -> str | None:
        """``"apsw"`` if all that it writes goes through SQLite's default VFS in apsw, ``"os"`` if not.

        With ``"apsw"`` it may also create empty files and sync directories by itself. None, as without this
        attribute: its files are not to be watched.
        """
        ...


@runtime_checkable
class LockingStore(Protocol):
    """A store that says whether it has the lock of clause S13."""

    @property
    def has_lock(self) -> bool:
        """False for a durable store whose deployment alone guarantees that there is one appender.

        True without this attribute.
        """
        ...


@runtime_checkable
class LeasedStore(Protocol):
    """A store whose lock outlives, for a while, a process that was killed."""

    @property
    def lock_timeout(self) -> float:
        """The lock of a killed process is gone within this many seconds; finite, 0 or more.

        0 without this attribute.
        """
        ...


@runtime_checkable
class ReadOnlyCapableStore(Protocol):
    """A store that can be opened for reading only."""

    @property
    def read_only(self) -> bool:
        """True if this instance was opened for reading only; a log refuses it.

        False without this attribute.
        """
        ...


@runtime_checkable
class DamageAwareStore(Protocol):
    """A store that notices when its files were damaged."""

    @property
    def detects_damage(self) -> bool:
        """True for a store that keeps clause S16.

        False without this attribute.
        """
        ...
