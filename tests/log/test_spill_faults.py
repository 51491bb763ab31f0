"""The spill file on a disk where each system call fails in turn, and process or power end at each of them.

The disk is simulated, so that it can be said what of a write was on it. The same programs run on a real one
at the end, without a loss of power.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from tests._helpers.fakes import numbered
from trio_eventlog import PersistedEvent, SpillError
from trio_eventlog._log import _spill_disk
from trio_eventlog._log._spill_file import Keep, SpillFile, SpillFull
from trio_eventlog._log._spill_format import header_of, line_of

DIRECTORY = "/simulated"
PATH = f"{DIRECTORY}/log.spill"
LARGE = 10**6


def events(*numbers: int) -> list[PersistedEvent]:
    return [PersistedEvent(f"id-{n}", n, n, "worker", numbered(n)) for n in numbers]


class Ended(BaseException):
    """The process was killed, or the power failed: nothing more happens."""


# --- a disk ---------------------------------------------------------------------------------------


@attrs.define
class Write:
    position: int
    data: bytes
    is_synced: bool = False
    is_doubtful: bool = False
    """A sync failed: what comes after does not write it again."""


@attrs.define
class Cut:
    size: int
    is_synced: bool = False
    is_doubtful: bool = False


@attrs.define(eq=False)
class Inode:
    number: int
    content: bytearray = attrs.Factory(bytearray)
    history: list[Write | Cut] = attrs.Factory(list)

    def apply(self, change: Write | Cut) -> None:
        if isinstance(change, Cut):
            del self.content[change.size :]
            self.content.extend(bytes(change.size - len(self.content)))
        else:
            self.content.extend(bytes(max(change.position - len(self.content), 0)))
            self.content[change.position : change.position + len(change.data)] = change.data


def _unsynced(inode: Inode) -> list[Write | Cut]:
    return [change for change in inode.history if not change.is_synced]


def _zeros(change: Write | Cut) -> Write | Cut:
    return change if isinstance(change, Cut) else Write(change.position, bytes(len(change.data)))


def _half(change: Write | Cut) -> Write | Cut:
    return change if isinstance(change, Cut) else Write(change.position, change.data[: len(change.data) // 2])


WHAT_IS_THERE: dict[str, Callable[[Inode, Write | Cut], Write | Cut | None]] = {
    "nothing": lambda _inode, _change: None,
    "all": lambda _inode, change: change,
    "its size, but not its content": lambda _inode, change: _zeros(change),
    "half of it": lambda _inode, change: _half(change),
    "the newest alone": lambda inode, change: change if change is _unsynced(inode)[-1] else None,
    "all but the newest": lambda inode, change: None if change is _unsynced(inode)[-1] else change,
}
"""After a loss of power, of what was written and not synced."""


class Disk:
    """Stands for the module ``os``. One system call, counted from 1, goes wrong in a way."""

    path = os.path
    fsencode, fsdecode = staticmethod(os.fsencode), staticmethod(os.fsdecode)
    PathLike = os.PathLike
    urandom = staticmethod(os.urandom)

    def __init__(self, fault: tuple[int, str] = (0, ""), *, has_links: bool = True) -> None:
        self.has_links = has_links
        self.fault = fault
        self.calls: list[str] = []
        self.was_fault = False
        self.is_over = False
        self.is_full_next = False
        self.names: dict[str, Inode] = {}
        self.synced_names: dict[str, Inode] = {}
        self.changes: list[dict[str, Inode]] = []  # of names, since the directory was synced
        self.fds: dict[int, Inode | str] = {}
        self.held = 0  # locks of the side file

    def __getattr__(self, name: str) -> Any:
        if name.startswith("O_"):
            return getattr(os, name)
        return functools.partial(self.call, name)

    def call(self, name: str, *arguments: Any, **more: Any) -> Any:
        if self.is_over:
            raise Ended
        self.calls.append(name)
        position, kind = self.fault
        is_hit = len(self.calls) == position
        work = functools.partial(getattr(self, f"do_{name}"), *arguments, **more)
        if name == "pwrite" and self.is_full_next:
            self.is_full_next = False
            raise OSError(errno.ENOSPC, "full")
        if not is_hit:
            return work()
        self.was_fault = True
        if kind == "ends":
            self.is_over = True
            raise Ended
        if kind == "short" and name == "pread":
            return self.do_pread(arguments[0], max(arguments[1] // 2, 1), arguments[2])
        if kind == "short" and name == "pwrite":
            self.is_full_next = True
            return self.do_pwrite(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], arguments[2])
        if (kind == "after" and name != "open") or name == "close":
            work()
            if name == "fsync":
                self._doubt(arguments[0])
        elif name == "fsync":
            self._doubt(arguments[0])
        raise OSError(errno.ENOSPC if name == "pwrite" else errno.EIO, "broken")

    def _doubt(self, fd: int) -> None:
        if isinstance(inode := self.fds[fd], Inode):
            for change in _unsynced(inode):
                change.is_doubtful = isinstance(change, Write)

    # What the system does.

    def do_open(self, path: Any, flags: int, _mode: int = 0) -> int:
        name = str(path)
        fd = next(n for n in range(3, 100) if n not in self.fds)
        if name == DIRECTORY:
            self.fds[fd] = name
            return fd
        if name in self.names and flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, "exists", name)
        if name not in self.names:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "none", name)
            self._rename({**self.names, name: Inode(max((i.number for i in self._inodes()), default=0) + 1)})
        self.fds[fd] = self.names[name]
        return fd

    def _inodes(self) -> Iterator[Inode]:
        for names in (self.names, self.synced_names, *self.changes):
            yield from names.values()
        yield from (inode for inode in self.fds.values() if isinstance(inode, Inode))

    def _rename(self, names: dict[str, Inode]) -> None:
        self.names = names
        self.changes.append(names)

    def _inode(self, fd: int) -> Inode:
        inode = self.fds.get(fd)
        assert isinstance(inode, Inode), f"{fd} is not a file of ours"
        return inode

    def do_close(self, fd: int) -> None:
        assert fd in self.fds, "closed already"
        del self.fds[fd]

    def do_pread(self, fd: int, size: int, position: int) -> bytes:
        return bytes(self._inode(fd).content[position : position + size])

    def do_pwrite(self, fd: int, data: Any, position: int) -> int:
        self._change(fd, Write(position, bytes(data)))
        return len(data)

    def do_ftruncate(self, fd: int, size: int) -> None:
        self._change(fd, Cut(size))

    def _change(self, fd: int, change: Write | Cut) -> None:
        inode = self._inode(fd)
        inode.history.append(change)
        inode.apply(change)

    def do_fsync(self, fd: int) -> None:
        if isinstance(inode := self.fds[fd], str):
            self.synced_names, self.changes = self.names, []
            return
        for change in inode.history:
            change.is_synced = change.is_synced or not change.is_doubtful

    def do_fstat(self, fd: int) -> Any:
        return self._stat(self._inode(fd))

    def do_stat(self, path: Any) -> Any:
        if str(path) not in self.names:
            raise FileNotFoundError(errno.ENOENT, "none", str(path))
        return self._stat(self.names[str(path)])

    do_lstat = do_stat

    @staticmethod
    def _stat(inode: Inode) -> Any:
        return SimpleNamespace(
            st_ino=inode.number, st_dev=1, st_size=len(inode.content), st_mode=stat.S_IFREG | 0o600
        )

    def do_replace(self, path: Any, to: Any) -> None:
        names = dict(self.names)
        names[str(to)] = names.pop(str(path))
        self._rename(names)

    def do_link(self, path: Any, to: Any) -> None:
        if not self.has_links:
            raise PermissionError(errno.EPERM, "no links")
        self._rename({**self.names, str(to): self.names[str(path)]})

    def do_unlink(self, path: Any) -> None:
        if str(path) not in self.names:
            raise FileNotFoundError(errno.ENOENT, "none", str(path))
        names = dict(self.names)
        del names[str(path)]
        self._rename(names)

    def do_flock(self, fd: int) -> None:
        self._inode(fd)

    # What is there once all is over.

    def put(self, content: bytes, name: str = PATH) -> None:
        """Let a file be there, on the disk."""
        self.do_close(fd := self.do_open(name, os.O_CREAT))
        inode = self.names[name]
        inode.history.append(Write(0, content, is_synced=True))
        inode.apply(inode.history[-1])
        self.synced_names, self.changes = self.names, []
        assert fd not in self.fds

    def content(self) -> frozenset[tuple[str, bytes]]:
        return frozenset((name, bytes(inode.content)) for name, inode in self.names.items())

    def after_kill(self) -> Disk:
        return self._copy(self.names, lambda _inode, change: change)

    def after_power_loss(self) -> Iterator[tuple[str, Disk]]:
        for count, names in enumerate([self.synced_names, *self.changes]):
            for what, choose in WHAT_IS_THERE.items():
                yield f"loss of power: {what}, and {count} changes of names", self._copy(names, choose)

    def _copy(
        self, names: dict[str, Inode], choose: Callable[[Inode, Write | Cut], Write | Cut | None]
    ) -> Disk:
        disk = Disk()
        for name, inode in names.items():
            new = Inode(inode.number)
            for change in inode.history:
                chosen = change if change.is_synced else choose(inode, change)
                if chosen is not None:
                    new.apply(chosen)
            new.history.append(Write(0, bytes(new.content), is_synced=True))
            disk.names[name] = new
        disk.synced_names = disk.names
        return disk


class Lock:
    """Of the side file, which is not what is tested here."""

    used: Disk

    def __init__(self) -> None:
        self.disk = self.used
        self.disk.held += 1

    @classmethod
    def acquire(cls, _path: str, _what: str) -> Lock:
        return cls()

    def release(self) -> None:
        self.disk.held -= 1


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Disk], None]:
    """Let spill files be on a disk from now on."""

    def use(disk: Disk) -> None:
        def let_go(fd: int) -> None:
            with contextlib.suppress(OSError):
                disk.close(fd)

        Lock.used = disk
        monkeypatch.setattr(_spill_disk, "os", disk)
        monkeypatch.setattr(_spill_disk, "let_go", let_go)
        monkeypatch.setattr(_spill_disk, "lock_open_file", disk.flock)
        monkeypatch.setattr(_spill_disk, "FileLock", Lock)

    return use


# --- programs -------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Program:
    """What a log does with its spill file, and what it may rely on."""

    path: str = PATH
    max_bytes: int = LARGE
    keep: Keep = Keep.NOT
    before: list[str] = attrs.Factory(list)
    """Ids of events that are in the file already."""
    file: SpillFile | None = None
    unsettled: list[str] = attrs.Factory(list)
    """Ids of events that the file has acknowledged, and that must be found whatever happens."""
    unread: list[str] = attrs.Factory(list)
    batch: list[PersistedEvent] = attrs.Factory(list)
    at_settle: list[str] = attrs.Factory(list)
    given: set[str] = attrs.Factory(set)
    known_seq: int = 0
    """What the file has acknowledged to know."""
    is_closed: bool = False

    def open(self) -> None:
        self.unsettled = self.unsettled or list(self.before)
        self.given |= set(self.before)
        self.file = SpillFile(self.path, "log", self.max_bytes, keep=self.keep)
        self.file.number_from(1000)
        self.file.note_stored(self.file.known_seq)
        self.unread = list(self.unsettled)

    def append(self, *numbers: int) -> None:
        assert self.file is not None
        new = events(*numbers)
        self.given |= {one.id for one in new}
        self.file.append(new)
        self.unsettled += [one.id for one in new]
        self.unread += [one.id for one in new]
        self.known_seq = self.file.known_seq

    def note(self, seq: int) -> None:
        assert self.file is not None
        self.file.note_stored(seq)

    def read(self, most: int) -> None:
        assert self.file is not None
        # The log reads only once the batch before is settled.
        if self.keep is Keep.NOT:
            self.unsettled = [one for one in self.unsettled if one not in {e.id for e in self.batch}]
        self.batch, done = [], self.batch
        try:
            self.batch = self.file.read(most, LARGE).events
        except OSError:
            self.batch = done
            raise
        assert [one.id for one in self.batch] == self.unread[: len(self.batch)]
        del self.unread[: len(self.batch)]

    def settle_all(self) -> None:
        """All that was read, if it is all."""
        assert self.file is not None
        assert not self.unread
        self.unsettled, self.batch = [], []
        self.file.settle(self.file.end)

    def settle_batch(self) -> None:
        """What was read so far; the store has made sure of it."""
        assert self.file is not None
        self.unsettled, self.batch = list(self.unread), []
        self.file.settle(self.file.start + self._read_to())

    def _read_to(self) -> int:
        assert self.file is not None
        return self.file._positions.read_to - self.file.start

    def close(self) -> None:
        assert self.file is not None
        first = self.batch if self.unsettled else None
        try:
            self.file.close(first)
        finally:
            self.is_closed = True

    def close_settled(self) -> None:
        """As a log does that has nothing more to do."""
        assert self.file is not None
        if self.keep is Keep.NOT:
            self.unsettled = []
        try:
            self.file.close(None)
        finally:
            self.is_closed = True


Step = tuple[str, tuple[int, ...]]


def header() -> bytes:
    return header_of("log")


def lines(*numbers: int) -> bytes:
    return b"".join(line_of(one) for one in events(*numbers))


SMALL = len(header() + lines(*range(100, 112)))


@attrs.frozen
class Scenario:
    steps: list[Step]
    content: bytes | None = None
    """Of the file when it is opened; None if there is none."""
    leftover: bytes | None = None
    before: tuple[int, ...] = ()
    max_bytes: int = LARGE
    keep: Keep = Keep.NOT
    has_links: bool = True


def step(name: str, *arguments: int) -> Step:
    return name, arguments


SCENARIOS = {
    "a queue": Scenario(
        [
            step("open"),
            step("append", 1, 2, 3),
            step("append", 4, 5),
            step("read", 2),
            step("append", 6),
            step("read", 9),
            step("settle_all"),
            step("append", 7, 8),
            step("read", 1),
            step("close"),
        ]
    ),
    "outages": Scenario(
        [
            step("open"),
            step("append", 1, 2),
            step("read", 9),
            step("settle_all"),
            step("append", 3),
            step("read", 9),
            step("settle_all"),
            step("append", 4),
            step("read", 9),
            step("settle_all"),
            step("close_settled"),
        ]
    ),
    "no room": Scenario(
        [
            step("open"),
            step("append", *range(100, 110)),
            step("read", 6),
            step("read", 1),
            step("append", *range(110, 114)),
            step("read", 9),
            step("close"),
        ],
        max_bytes=SMALL,
    ),
    "an earlier run": Scenario(
        [
            step("open"),
            step("read", 2),
            step("append", 4),
            step("read", 9),
            step("settle_all"),
            step("append", 5),
        ],
        content=header() + lines(1, 2, 3) + lines(4)[:30],
        before=(1, 2, 3),
    ),
    "damage": Scenario(
        [
            step("open"),
            step("read", 9),
            step("append", 4),
            step("read", 9),
            step("settle_all"),
            step("append", 5),
            step("read", 9),
            step("close"),
        ],
        content=header() + lines(1) + lines(2).replace(b"id-2", b"id-X") + lines(3),
        before=(1, 3),
    ),
    "damage and no room": Scenario(
        [
            step("open"),
            step("read", 6),
            step("read", 1),
            step("append", *range(110, 114)),
            step("read", 9),
            step("close"),
        ],
        content=header() + lines(*range(100, 110)).replace(b"id-101", b"id-XXX"),
        before=(100, *range(102, 110)),
        max_bytes=SMALL,
    ),
    "zeros before the events": Scenario(
        [
            step("open"),
            step("append", 3),
            step("read", 9),
            step("settle_all"),
            step("append", 4),
            step("close"),
        ],
        content=bytes(300) + lines(1, 2),
        before=(1, 2),
    ),
    "nothing but zeros": Scenario(
        [step("open"), step("append", 1), step("read", 9), step("close_settled")], content=bytes(9000)
    ),
    "a leftover": Scenario(
        [step("open"), step("append", 3), step("close")],
        content=header() + lines(1, 2),
        leftover=header() + lines(1)[:20],
        before=(1, 2),
    ),
    "a leftover alone": Scenario(
        [step("open"), step("append", 3), step("close")],
        leftover=header() + lines(1, 2),
        before=(1, 2),
    ),
    "a store that is slow to sync": Scenario(
        [
            step("open"),
            step("append", 1, 2, 3),
            step("read", 2),
            step("settle_batch"),
            step("append", 4),
            step("read", 9),
            step("settle_all"),
            step("append", 5),
            step("read", 9),
            step("close_settled"),
        ],
        keep=Keep.UNTIL_TOLD,
    ),
    "marks": Scenario(
        [
            step("open"),
            step("note", 10),
            step("append", 11, 12),
            step("read", 1),
            step("note", 11),
            step("read", 1),
            step("append", 13),
            step("close"),
        ]
    ),
}

SCENARIOS["damage and no room, without links"] = attrs.evolve(
    SCENARIOS["damage and no room"], has_links=False
)

KINDS = ["before", "after", "short", "ends"]


def prepared(scenario: Scenario, fault: tuple[int, str]) -> tuple[Disk, Program]:
    disk = Disk(fault, has_links=scenario.has_links)
    if scenario.content is not None:
        disk.put(scenario.content)
    if scenario.leftover is not None:
        disk.put(scenario.leftover, f"{PATH}.new")
    before = [f"id-{number}" for number in scenario.before]
    return disk, Program(max_bytes=scenario.max_bytes, keep=scenario.keep, before=before)


def run(program: Program, steps: list[Step], look: Callable[[], None] = lambda: None) -> None:
    """Do one step after the other; one that fails is done again, as the log would, and an append in parts."""
    for name, arguments in steps:
        work = functools.partial(getattr(program, name), *arguments)
        try:
            work()
        except (OSError, SpillError) as exc:
            assert not isinstance(exc, SpillFull)  # noqa: PT017 - any other may come
            look()
            if name == "append":
                # Shorter than what may be left of the one that failed.
                program.append(arguments[-1] + 1000)
                look()
            if not name.startswith(("close", "settle")):
                work()
        look()


def check_next_run(
    disk: Disk, program: Program, use: Callable[[Disk], None], what: str, *, is_clean: bool
) -> None:
    """All that was acknowledged and not settled is there, once and in order, and the file works."""
    use(disk)
    file = SpillFile(PATH, "log", LARGE)
    assert file.known_seq >= program.known_seq or not program.unsettled, what
    file.number_from(1)
    file.note_stored(file.known_seq)
    found = [one.id for one in file.read(10**6, LARGE).events]
    assert len(set(found)) == len(found), what
    assert not is_clean or file.recovered == len(found), what
    assert set(found) <= program.given, what
    assert [one for one in found if one in program.unsettled] == program.unsettled, what
    file.append(events(500))
    assert [one.id for one in file.read(9, LARGE).events] == ["id-500"], what
    file.close(None)
    assert not {one for one in disk.names if ".damaged-" not in one}, what
    assert not disk.fds
    assert disk.held == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_one_fault_at_each_system_call(name: str, kind: str, use: Callable[[Disk], None]) -> None:
    """Then it goes on, or the process is killed, or the power fails, at once and at the end."""
    scenario, position = SCENARIOS[name], 0
    seen: set[object] = set()
    while True:
        position += 1
        disk, program = prepared(scenario, (position, kind))
        what = f"{kind} call {position}"

        def look(disk: Disk = disk, program: Program = program, what: str = what) -> None:
            for left, copy in [("kill", disk.after_kill()), *disk.after_power_loss()]:
                state = (copy.content(), tuple(program.unsettled), program.known_seq, len(program.given))
                # A write that was cut in two can be there in its second half.
                is_clean = not name.startswith("damage") and (kind != "short" or left == "kill")
                if (state, is_clean) not in seen:
                    seen.add((state, is_clean))
                    check_next_run(copy, program, use, f"{what}, {left}", is_clean=is_clean)
            use(disk)

        use(disk)
        try:
            run(program, scenario.steps, look)
        except Ended:
            look()
            continue
        if not disk.was_fault:
            break
        if program.is_closed:
            assert not disk.fds
            assert disk.held == 0
    assert position > 10


@pytest.mark.parametrize("name", SCENARIOS)
def test_on_a_real_disk(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fault at each system call, and then it goes on."""
    scenario, position, calls = SCENARIOS[name], 0, 0

    class Calls:
        def __getattr__(self, call: str) -> Any:
            real = getattr(os, call)
            if call not in {
                "open",
                "pread",
                "pwrite",
                "ftruncate",
                "fsync",
                "fstat",
                "stat",
                "link",
                "replace",
            }:
                return real

            def counted(*arguments: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == position:
                    raise OSError(errno.EIO, "broken")
                return real(*arguments, **more)

            return counted

    calls = Calls()
    monkeypatch.setattr(_spill_disk, "os", calls)
    was_fault = True
    while was_fault:
        position, calls = position + 1, 0
        directory = tmp_path / str(position)
        directory.mkdir()
        path = directory / "log.spill"
        if scenario.content is not None:
            path.write_bytes(scenario.content)
        if scenario.leftover is not None:
            (directory / "log.spill.new").write_bytes(scenario.leftover)
        before = [f"id-{number}" for number in scenario.before]
        program = Program(path=str(path), max_bytes=scenario.max_bytes, keep=scenario.keep, before=before)
        run(program, scenario.steps)
        was_fault, calls = calls >= position, -LARGE
        if not program.is_closed:
            program.close()
        file = SpillFile(path, "log", LARGE)
        file.number_from(1)
        found = [one.id for one in file.read(10**6, LARGE).events]
        assert [one for one in found if one in program.unsettled] == program.unsettled
        file.close(None)
