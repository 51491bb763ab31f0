"""What a disk may hold after power was lost: pure functions of a journal.

The rules are the promises that POSIX makes, and no more of what some file system adds:

* what was written and then synced is there
* of what was not synced, nothing, everything or any part may be there, in any order, also half of one write
* names were changed in the order in which that was done, but how far is open, unless the directory was synced
* after a sync that failed, no later sync of the file says anything about what was written before it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

import attrs

from trio_eventlog.testing._arguments import check_instance, check_integer
from trio_eventlog.testing._power._journal import (
    ROOT,
    Acknowledged,
    DataOperation,
    DirectoryMade,
    DirectorySynced,
    FileJournal,
    Named,
    NameOperation,
    Operation,
    Removed,
    Renamed,
    Resized,
    Synced,
    SyncFailed,
    Written,
    parent_of,
)

KEPT: Final = ("nothing", "everything", "one file", "all but one file", "some", "torn at 512", "torn at 4096")
"""What may be kept of what was not synced."""

_SIZES: Final = {"torn at 512": 512, "torn at 4096": 4096}
_SHARES: Final = (0.1, 0.5, 0.9)
_WHOLE: Final = 0.3
_CUT: Final = 0.5
_ZEROS: Final = 0.1
"""Of the blocks that are lost, so many are zeros: the file got longer, and what it got longer by was lost."""


def _check_number(_crash: Crash, field: attrs.Attribute[int], value: object) -> None:
    check_integer(field.name, value, 0 if field.name == "acknowledged" else None)


def _check_kept(_crash: Crash, _field: attrs.Attribute[str], value: str) -> None:
    if value not in KEPT:
        raise ValueError(f"kept: expected one of {', '.join(map(repr, KEPT))}, got {value!r}")


@attrs.frozen
class Crash:
    """When power is lost, and what is left then of what was not synced.

    Attributes:
      acknowledged: after how many acknowledgements, 0 or more. If there are fewer, at the end.
      operations: how many operations on files after the last of them, up to the next acknowledgement; a
        negative number counts back from there.
      kept: ``"nothing"`` of what was not synced, ``"everything"``, what belongs to ``"one file"`` or to
        ``"all but one file"``, ``"some"`` of the writes, or some blocks of each write: ``"torn at 512"``
        bytes or ``"torn at 4096"``.
      seed: which file, which writes and which blocks.
    """

    acknowledged: int = attrs.field(validator=_check_number)
    operations: int = attrs.field(default=0, validator=_check_number)
    kept: str = attrs.field(default="nothing", validator=_check_kept)
    seed: int = attrs.field(default=0, validator=_check_number)

    def __repr__(self) -> str:
        seed = "" if self.kept in ("nothing", "everything") else f", seed={self.seed}"
        return f"Crash({self.acknowledged}, {self.operations}, {self.kept!r}{seed})"


@attrs.frozen
class CrashState:
    """What a disk holds after power was lost.

    Attributes:
      files: the content of each file, by its path in the directory.
      directories: the paths of the directories in it.
      promised: what the last acknowledgement before the cut says: how many batches are stored.
      cut: the number of operations of the journal that happened.
      last: what happened last, in words.
    """

    files: dict[str, bytes] = attrs.field(repr=False)
    directories: frozenset[str]
    promised: int
    cut: int
    last: str

    def write(self, directory: Path) -> None:
        """Write the files into an empty directory. Blocks."""
        for path in sorted(self.directories):
            (directory / path).mkdir(parents=True, exist_ok=True)
        for path, content in self.files.items():
            (directory / path).write_bytes(content)


def crash_state(journal: FileJournal, crash: Crash) -> CrashState:
    """What the disk holds after ``crash``. The same journal and crash give the same state.

    Raises:
      TypeError: an argument has the wrong type.
    """
    check_instance("journal", journal, FileJournal)
    check_instance("crash", crash, Crash)
    cut = cut_of(journal.operations, crash, journal.settled)
    happened = journal.operations[:cut]
    files, directories = _lost(happened, crash.kept, Random(crash.seed))  # noqa: S311 - a choice, no secret
    promises = [operation.count for operation in happened if isinstance(operation, Acknowledged)]
    return CrashState(
        files, directories, promises[-1] if promises else 0, cut, _in_words(happened[-1:], happened)
    )


def cut_of(operations: Sequence[Operation], crash: Crash, settled: int = 0) -> int:
    """How many of the operations happen, the first ``settled`` of them in any case."""
    marks = [settled]
    marks += [
        index for index, operation in enumerate(operations, start=1) if isinstance(operation, Acknowledged)
    ]
    marks.append(len(operations) + 1)
    place = min(crash.acknowledged, len(marks) - 2)
    first, last = marks[place], marks[place + 1] - 1
    return (
        min(first + crash.operations, last) if crash.operations >= 0 else max(last + crash.operations, first)
    )


# --- contents -------------------------------------------------------------------------------------


@attrs.frozen
class _Pending:
    """A data operation, and whether it is certain to be on the disk."""

    operation: DataOperation
    is_synced: bool


def _lost(
    happened: Sequence[Operation], kept: str, random: Random
) -> tuple[dict[str, bytes], frozenset[str]]:
    contents = {
        file: _content(pending, _keeping(kept, number, random))
        for number, (file, pending) in enumerate(_pending_by_file(happened, kept, random))
    }
    names, directories = _names(happened, kept, random)
    return {path: contents.get(file, b"") for path, file in names.items()}, directories


def _pending_by_file(
    happened: Sequence[Operation], kept: str, random: Random
) -> Iterator[tuple[int, list[_Pending]]]:
    """The files with their operations. The one that is treated otherwise than the rest comes first."""
    by_file: dict[int, list[_Pending]] = {}
    # The operations of a file whose fate is sealed: synced, or out of reach of any sync.
    settled: dict[int, int] = {}
    for operation in happened:
        match operation:
            case Written(file=file) | Resized(file=file):
                by_file.setdefault(file, []).append(_Pending(operation, is_synced=False))
            case SyncFailed(file=file):
                settled[file] = len(by_file.get(file, ()))
            case Synced(file=file):
                pending = by_file.get(file, [])
                for index in range(settled.get(file, 0), len(pending)):
                    pending[index] = _Pending(pending[index].operation, is_synced=True)
                settled[file] = len(pending)
            case _:
                pass
    files = sorted(by_file)
    if kept in ("one file", "all but one file"):
        unsynced = [file for file in files if not all(item.is_synced for item in by_file[file])]
        if unsynced:
            chosen = random.choice(unsynced)
            files.remove(chosen)
            files.insert(0, chosen)
    for file in files:
        yield file, by_file[file]


_Keep = Callable[[DataOperation], Iterable[DataOperation]]
"""What is left of an operation that was not synced."""


def _keeping(kept: str, number: int, random: Random) -> _Keep:
    match kept:
        case "everything":
            return lambda operation: (operation,)
        case "one file":
            return (lambda operation: (operation,)) if number == 0 else (lambda _: ())
        case "all but one file":
            return (lambda _: ()) if number == 0 else (lambda operation: (operation,))
        case "some":
            share = random.choice(_SHARES)
            return lambda operation: (operation,) if random.random() < share else ()
        case "torn at 512" | "torn at 4096":
            # Also whole beside torn: what refers to something is there, and the thing itself in part.
            if random.random() < _WHOLE:
                return lambda operation: (operation,)
            share, size, is_cut = random.choice(_SHARES), _SIZES[kept], random.random() < _CUT
            return lambda operation: _torn(
                operation, size, random.random() if is_cut else share, is_cut, random
            )
        case _:
            return lambda _: ()


def _torn(
    operation: DataOperation, size: int, share: float, is_cut: bool, random: Random
) -> Iterator[DataOperation]:
    """Some of the blocks of a write in the order of their places, or its first ones."""
    if isinstance(operation, Resized):
        if random.random() < share:
            yield operation
        return
    position, end = operation.offset, operation.offset + len(operation.data)
    limit = position + share * len(operation.data)
    while position < end:
        after = min((position // size + 1) * size, end)
        block = operation.data[position - operation.offset : after - operation.offset]
        if position <= limit if is_cut else random.random() < share:
            yield Written(operation.file, position, block)
        elif random.random() < _ZEROS:
            yield _Extended(operation.file, after)
        position = after


class _Extended(Resized):
    """The file is at least this long."""


def _content(pending: Sequence[_Pending], keep: _Keep) -> bytes:
    content = bytearray()
    for item in pending:
        for operation in (item.operation,) if item.is_synced else keep(item.operation):
            _apply(content, operation)
    return bytes(content)


def _apply(content: bytearray, operation: DataOperation) -> None:
    match operation:
        case Written(offset=offset, data=data):
            if len(content) < offset:
                content.extend(bytes(offset - len(content)))
            content[offset : offset + len(data)] = data
        case Resized(size=size):
            if not isinstance(operation, _Extended):
                del content[size:]
            content.extend(bytes(max(0, size - len(content))))


# --- names ----------------------------------------------------------------------------------------


def _names(happened: Sequence[Operation], kept: str, random: Random) -> tuple[dict[str, int], frozenset[str]]:
    """The files by name, and the directories."""
    operations = [
        (index, operation)
        for index, operation in enumerate(happened)
        if isinstance(operation, Named | Removed | Renamed | DirectoryMade)
    ]
    names: dict[str, int] = {}
    directories: set[str] = set()
    reached: dict[str, int] = {}
    for index, operation in operations:
        if all(
            index < _reach(parent, happened, kept, random, reached) for parent in _directories_of(operation)
        ):
            _rename(names, directories, operation)
    # What is in a directory that is not there cannot be found.
    there = frozenset(path for path in directories if _is_reachable(path, directories))
    return {path: file for path, file in names.items() if _is_reachable(parent_of(path), directories)}, there


def _reach(
    directory: str, happened: Sequence[Operation], kept: str, random: Random, reached: dict[str, int]
) -> int:
    """The index up to which the names of a directory were changed on the disk."""
    if directory not in reached:
        synced = max(
            (index for index, operation in enumerate(happened) if operation == DirectorySynced(directory)),
            default=0,
        )
        match kept:
            case "nothing":
                reached[directory] = synced
            case "everything" | "one file" | "all but one file":
                reached[directory] = len(happened)
            case _:
                reached[directory] = random.randint(synced, len(happened))
    return reached[directory]


def _directories_of(operation: NameOperation) -> Iterable[str]:
    if isinstance(operation, Renamed):
        return {parent_of(operation.path), parent_of(operation.new_path)}
    return (parent_of(operation.path),)


def _rename(names: dict[str, int], directories: set[str], operation: NameOperation) -> None:
    match operation:
        case Named(path=path, file=file):
            names[path] = file
        case Removed(path=path):
            # It may not have been there: what made it was another directory's.
            names.pop(path, None)
            directories.discard(path)
        case DirectoryMade(path=path):
            directories.add(path)
        case Renamed(path=path, new_path=new_path):
            if path in names:
                names[new_path] = names.pop(path)
            elif path in directories:
                directories.remove(path)
                directories.add(new_path)
                for below in [name for name in names if name.startswith(f"{path}/")]:
                    names[new_path + below[len(path) :]] = names.pop(below)
                for below in [name for name in directories if name.startswith(f"{path}/")]:
                    directories.remove(below)
                    directories.add(new_path + below[len(path) :])


def _is_reachable(path: str, directories: set[str]) -> bool:
    return path == ROOT or (path in directories and _is_reachable(parent_of(path), directories))


# --- words ----------------------------------------------------------------------------------------


def _in_words(last: Sequence[Operation], happened: Sequence[Operation]) -> str:
    if not last:
        return "nothing had happened"
    paths = {operation.file: operation.path for operation in happened if isinstance(operation, Named)}
    named = paths.get(getattr(last[0], "file", 0), "a file without a name")
    match last[0]:
        case Named(path=path):
            return f"{path} had been created"
        case Removed(path=path):
            return f"{path} had been removed"
        case Renamed(path=path, new_path=new_path):
            return f"{path} had been renamed to {new_path}"
        case DirectoryMade(path=path):
            return f"the directory {path} had been made"
        case DirectorySynced(path=path):
            return f"the directory {path or '.'} had been synced"
        case Written(offset=offset, data=data):
            return f"{len(data)} bytes had been written to {named} at {offset}"
        case Resized(size=size):
            return f"{named} had been resized to {size} bytes"
        case Synced():
            return f"{named} had been synced"
        case SyncFailed():
            return f"a sync of {named} had failed"
        case Acknowledged(count=count):
            return f"append {count} had returned"
