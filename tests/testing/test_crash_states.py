"""What a disk may hold after a loss of power, against a model that knows only what is certain."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.testing import Crash, FileJournal, crash_state
from trio_eventlog.testing._power._journal import (
    Acknowledged,
    DirectoryMade,
    DirectorySynced,
    Named,
    Removed,
    Renamed,
    Resized,
    Synced,
    SyncFailed,
    Written,
)
from trio_eventlog.testing._power._states import KEPT

DIRECTORIES = ("", "d")
NAMES = ("a", "b", "d/a", "d/b")
FILES = (1, 2, 3)

files = st.sampled_from(FILES)
names = st.sampled_from(NAMES)
operations = st.one_of(
    st.builds(
        Written, files, st.integers(0, 5_000), st.binary(min_size=1, max_size=9).map(lambda b: b * 700)
    ),
    st.builds(Written, files, st.integers(0, 20), st.binary(min_size=1, max_size=20)),
    st.builds(Resized, files, st.integers(0, 6_000)),
    st.builds(Synced, files),
    st.builds(SyncFailed, files),
    st.builds(Named, names, files),
    st.builds(Removed, names),
    # Within a directory: across two of them each could be synced without the other.
    st.sampled_from([Renamed("a", "b"), Renamed("b", "a"), Renamed("d/a", "d/b")]),
    st.builds(DirectorySynced, st.sampled_from(DIRECTORIES)),
)
histories = st.lists(operations, max_size=25).map(
    lambda drawn: [DirectoryMade("d"), DirectorySynced(""), *drawn]
)
crashes = st.builds(Crash, st.just(0), st.integers(0, 30), st.sampled_from(KEPT), st.integers(0, 99))


@attrs.define
class Disk:
    """Files as a program sees them, and what is certain to be on the disk."""

    contents: dict = attrs.Factory(dict)
    names: dict = attrs.Factory(dict)
    safe_contents: dict = attrs.Factory(dict)
    safe_names: dict = attrs.Factory(dict)
    out_of_reach: dict = attrs.Factory(dict)
    """Operations of each file before a sync that failed, and which of them were synced before that."""

    done: dict = attrs.Factory(lambda: {file: [] for file in FILES})

    def play(self, operation):
        match operation:
            case Written() | Resized():
                self.done[operation.file].append([operation, False, True])
                self.contents[operation.file] = content_of([op for op, _, _ in self.done[operation.file]])
            case SyncFailed(file=file):
                for entry in self.done[file]:
                    entry[2] = False
            case Synced(file=file):
                for entry in self.done[file]:
                    entry[1] = entry[1] or entry[2]
                self.safe_contents[file] = content_of([op for op, safe, _ in self.done[file] if safe])
            case Named(path=path, file=file):
                self.names[path] = file
            case Removed(path=path):
                self.names.pop(path, None)
            case Renamed(path=path, new_path=new_path):
                if path in self.names:
                    self.names[new_path] = self.names.pop(path)
            case DirectorySynced(path=path):
                kept = {name: file for name, file in self.safe_names.items() if parent(name) != path}
                self.safe_names = kept | {
                    name: file for name, file in self.names.items() if parent(name) == path
                }


def parent(name):
    return name.rpartition("/")[0]


def content_of(operations):
    content = b""
    for operation in operations:
        match operation:
            case Written(offset=offset, data=data):
                content = content.ljust(offset, b"\0")
                content = content[:offset] + data + content[offset + len(data) :]
            case Resized(size=size):
                content = content[:size].ljust(size, b"\0")
    return content


def journal_of(operations):
    journal = FileJournal()
    for operation in operations:
        journal.note(operation)
    return journal


def played(operations):
    disk = Disk()
    for operation in operations:
        disk.play(operation)
    return disk


@given(histories, crashes)
def test_everything_is_what_the_program_saw(history, crash):
    state = crash_state(journal_of(history), attrs.evolve(crash, kept="everything", operations=30))

    disk = played(history)
    assert state.files == {name: disk.contents.get(file, b"") for name, file in disk.names.items()}
    assert state.directories == {"d"}


@given(histories)
def test_nothing_is_what_was_synced(history):
    state = crash_state(journal_of(history), Crash(0, 30, "nothing"))

    disk = played(history)
    assert state.files == {name: disk.safe_contents.get(file, b"") for name, file in disk.safe_names.items()}


@given(histories, crashes)
def test_what_is_synced_is_there_whatever_else_is(history, crash):
    everything = [*map(Synced, FILES), *map(DirectorySynced, DIRECTORIES)]
    history = [operation for operation in history if not isinstance(operation, SyncFailed)]

    state = crash_state(journal_of([*history, *everything]), attrs.evolve(crash, operations=99))

    disk = played(history)
    assert state.files == {name: disk.contents.get(file, b"") for name, file in disk.names.items()}


@given(histories, crashes)
def test_a_name_stands_for_what_it_once_stood_for(history, crash):
    state = crash_state(journal_of(history), crash)

    assert set(state.files) <= set(NAMES)
    happened = history[: state.cut]
    for path in state.files:
        assert any(
            (isinstance(operation, Named) and operation.path == path)
            or (isinstance(operation, Renamed) and operation.new_path == path)
            for operation in happened
        )


@given(
    st.lists(st.builds(Written, st.just(1), st.integers(0, 2_000), st.binary(min_size=1)), max_size=6),
    crashes,
)
def test_every_byte_was_written_there_or_is_a_zero(writes, crash):
    state = crash_state(journal_of([Named("a", 1), DirectorySynced(""), *writes]), crash)

    allowed = {}
    for write in writes:
        for index, byte in enumerate(write.data, start=write.offset):
            allowed.setdefault(index, {0}).add(byte)
    content = state.files.get("a", b"")
    assert all(byte in allowed.get(index, {0}) for index, byte in enumerate(content))
    assert len(content) <= max((write.offset + len(write.data) for write in writes), default=0)


@pytest.mark.parametrize("size", [512, 4096])
def test_a_write_is_torn_between_blocks(size):
    """Each block is there as a whole or not at all."""
    offset = 100
    data = bytes([1]) * (5 * size)
    journal = journal_of([Named("a", 1), DirectorySynced(""), Written(1, offset, data)])
    seen = set()
    for seed in range(200):
        content = crash_state(journal, Crash(0, 9, f"torn at {size}", seed)).files["a"]
        blocks = [content[start : start + size] for start in range(0, len(content), size)]
        kept = tuple(bool(block.strip(b"\0")) for block in blocks)
        for number, block in enumerate(blocks):
            assert block.strip(b"\0").count(1) in (0, len(block) - (offset if number == 0 else 0))
        seen.add(kept)
    # Heads of different lengths, and holes.
    assert len(seen) > 10
    assert any(True in kept[kept.index(False) :] for kept in seen if False in kept)


def test_one_file_is_kept_and_then_the_other():
    """Two files that depend on each other, without an order between them."""
    both = [Named("a", 1), Named("b", 2), DirectorySynced(""), Written(1, 0, b"x"), Written(2, 0, b"y")]

    kept = {
        tuple(crash_state(journal_of(both), Crash(0, 9, "one file", seed)).files.values())
        for seed in range(20)
    }

    assert kept == {(b"x", b""), (b"", b"y")}


@pytest.mark.parametrize("kept", KEPT)
def test_the_same_crash_gives_the_same_state(kept):
    history = [Named("a", 1), *(Written(1, 600 * n, b"x" * 600) for n in range(9))]
    crash = Crash(0, 9, kept, 5)

    assert crash_state(journal_of(history), crash) == crash_state(journal_of(history), crash)


@pytest.mark.parametrize(
    ("acknowledged", "operations", "cut"),
    [
        *((0, 0, 0), (0, 1, 1), (0, 9, 2), (0, -1, 1), (0, -9, 0), (1, 0, 3), (1, 9, 4)),
        *((2, 0, 5), (2, -1, 5), (2, 9, 6), (7, 9, 6), (7, 0, 5)),
    ],
)
def test_where_a_crash_is(acknowledged, operations, cut):
    history = [Named("a", 1), Synced(1), Acknowledged(1), Synced(1), Acknowledged(2), Synced(1)]

    state = crash_state(journal_of(history), Crash(acknowledged, operations))

    assert state.cut == cut
    assert state.promised == sum(isinstance(operation, Acknowledged) for operation in history[:cut])


def test_after_a_sync_that_failed_the_next_one_says_nothing_about_what_was_there():
    history = [Named("a", 1), DirectorySynced(""), Written(1, 0, b"old"), SyncFailed(1)]
    history += [Written(1, 3, b"new"), Synced(1)]

    assert crash_state(journal_of(history), Crash(0, 9)).files == {"a": b"\0\0\0new"}
    kept = {crash_state(journal_of(history), Crash(0, 9, "some", seed)).files["a"] for seed in range(20)}
    assert kept == {b"\0\0\0new", b"oldnew"}


def test_a_directory_is_renamed_with_what_is_in_it():
    history = [
        DirectoryMade("d"),
        DirectoryMade("d/e"),
        Named("d/a", 1),
        Named("d/e/b", 2),
        Renamed("d", "f"),
    ]

    state = crash_state(journal_of(history), Crash(0, 9, "everything"))

    assert set(state.files) == {"f/a", "f/e/b"}
    assert state.directories == {"f", "f/e"}


def test_what_is_in_a_directory_without_a_name_is_gone():
    history = [DirectoryMade("d"), Named("d/a", 1), Written(1, 0, b"x"), Synced(1), DirectorySynced("d")]

    assert crash_state(journal_of(history), Crash(0, 9)).files == {}
    assert crash_state(journal_of([*history, DirectorySynced("")]), Crash(0, 9)).files == {"d/a": b"x"}


def test_a_state_is_written(tmp_path):
    history = [DirectoryMade("d"), DirectoryMade("e"), Named("d/a", 1), Named("b", 2), Written(1, 0, b"x")]

    crash_state(journal_of(history), Crash(0, 9, "everything")).write(tmp_path)

    assert (tmp_path / "d" / "a").read_bytes() == b"x"
    assert (tmp_path / "b").read_bytes() == b""
    assert (tmp_path / "e").is_dir()


@pytest.mark.parametrize(
    "crash", [Crash(1), Crash(0, -3, "everything"), Crash(2, 5, "torn at 512", 7), Crash(0, 1, "some", 0)]
)
def test_a_crash_is_written_as_python(crash):
    assert eval(repr(crash), {"Crash": Crash}) == crash  # noqa: S307 - that is the test


def test_what_is_kept_is_checked():
    with pytest.raises(ValueError, match=r"kept: expected one of 'nothing', .* got 'all'"):
        Crash(0, 0, "all")
