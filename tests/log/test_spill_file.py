"""The spill file alone: a queue of events on disk that survives what disks and processes do."""

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.spill import ALL, HEADER, event, events, seqs_of
from trio_eventlog import SpillError, to_json
from trio_eventlog._log import _spill_disk, _spill_file, _spill_format
from trio_eventlog._log._spill_file import Keep, SpillFile, SpillFull

# --- a queue --------------------------------------------------------------------------------------


def test_what_goes_in_comes_out_in_order(path, opened):
    file = opened(path)
    file.append(events(1, 2, 5))
    file.append(events(9))

    assert file.read(3, ALL).events == events(1, 2, 5)
    assert file.read(3, ALL).events == events(9)
    assert file.read(3, ALL).events == []


def test_a_read_ends_after_so_many_bytes(path, opened):
    file = opened(path)
    file.append([event(seq, "x" * 1000) for seq in range(1, 8)])

    assert seqs_of(file.read(100, 2500)) == [1, 2, 3]
    assert seqs_of(file.read(100, 1)) == [4]


def test_what_comes_out_cannot_be_changed_by_whom_it_is_given_to(path, opened):
    """It stays text until somebody looks, and the text is what counts."""
    file = opened(path)
    file.append([event(1, {"n": [1]})])
    (first,) = file.read(1, ALL).events
    first.event.payload["n"].append("scribble")

    assert to_json(first) == to_json(event(1, {"n": [1]}))


@pytest.mark.parametrize("log_id", ["x", "a name that is much longer than null"])
def test_a_file_begun_without_the_name_of_a_log_goes_on_with_it(path, log_id):
    """Its first line then has another length than the one that would be written now."""
    file = SpillFile(path, None, ALL)
    file.append(events(1, 2, 3))
    file.close((), is_exact=False)

    file = SpillFile(path, log_id, ALL)
    file.number_from(11)
    first = file.read(1, ALL).events
    file.append(events(14, 15))
    assert seqs_of(file.read(1, ALL)) == [12]
    file.close(file.read(1, ALL).events)
    assert [one.id for one in first] == ["id-1"]

    file = SpillFile(path, log_id, ALL)
    file.number_from(21)
    assert [one.id for one in file.read(9, ALL).events] == ["id-3", "id-14", "id-15"]
    file.close(None)
    with pytest.raises(SpillError, match="another log"):
        again = SpillFile(path, log_id, ALL)
        again.append(events(1))
        again.close((), is_exact=False)
        SpillFile(path, "other", ALL)


@given(
    batches=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    reads=st.lists(st.integers(1, 6), max_size=10),
    block=st.integers(1, 400),
)
def test_any_mix_of_writes_and_reads(tmp_path_factory, batches, reads, block):
    """And however the file is cut into blocks; the next run finds what was not settled."""
    path = tmp_path_factory.mktemp("spill") / "file"
    with pytest.MonkeyPatch.context() as patch:
        for module in (_spill_format, _spill_disk):
            patch.setattr(module, "BLOCK_SIZE", block)
        file = SpillFile(path, "log", ALL)
        written, read = [], []
        for count, most in zip(batches, [*reads, *[3] * len(batches)], strict=False):
            new = events(*range(len(written) + 1, len(written) + 1 + count))
            file.append(new)
            written += new
            last = file.read(most, ALL).events
            read += last
            assert read == written[: len(read)]
        file.close(last)

        again = SpillFile(path, "log", ALL)
        again.number_from(1000)
        unsettled = written[len(read) - len(last) :]
        assert again.recovered == len(unsettled)
        found = again.read(ALL, ALL).events
        assert [one.id for one in found] == [one.id for one in unsettled]
        assert [one.seq for one in found] == list(range(1000, 1000 + len(found)))
        again.close(None)
        assert not path.exists()


def test_new_events_follow_those_of_an_earlier_run(path, opened):
    opened(path).append(events(7, 8))
    opened.release()
    file = opened(path, first_seq=3)
    file.append(events(5, 6))

    assert [(one.id, one.seq) for one in file.read(9, ALL).events] == [
        ("id-7", 3),
        ("id-8", 4),
        ("id-5", 5),
        ("id-6", 6),
    ]


def test_what_is_settled_makes_room(path, opened):
    file = opened(path)
    file.append(events(*range(1, 50)))
    file.read(100, ALL)
    full = file.size_bytes
    file.settle(full)

    assert file.size_bytes == path.stat().st_size == len(HEADER)
    file.append(events(50))
    assert seqs_of(file.read(9, ALL)) == [50]


def test_nothing_is_forgotten_that_came_meanwhile(path, opened):
    file = opened(path)
    file.append(events(1))
    size = file.size_bytes
    file.read(9, ALL)
    file.append(events(2))
    file.settle(size)

    assert seqs_of(file.read(9, ALL)) == [2]


def test_a_file_that_is_mostly_settled_is_written_anew(path, opened, monkeypatch):
    monkeypatch.setattr(_spill_file, "_MAX_DEAD", 1000)
    file = opened(path)
    file.append(events(*range(1, 60)))
    file.read(40, ALL)
    file.read(10, ALL)  # the forty are settled
    before = file.size_bytes
    file.append(events(60))

    assert file.size_bytes < before / 2
    assert seqs_of(file.read(99, ALL)) == [*range(51, 61)]
    file.close(events(49, 50))
    again = opened(path, first_seq=1)
    assert [one.id for one in again.read(99, ALL).events] == ["id-49", "id-50"]


def test_the_bound(path, opened):
    """A write that does not fit changes nothing; settled events make room for it."""
    file = opened(path, max_bytes=4096)
    file.append(events(*range(1, 20)))
    before = path.read_bytes()
    with pytest.raises(SpillFull, match="max_spill_bytes is 4096; the file has"):
        file.append(events(*range(20, 40)))
    assert path.read_bytes() == before

    file.read(15, ALL)
    file.read(1, ALL)
    file.append(events(*range(20, 30)))
    assert seqs_of(file.read(99, ALL)) == [*range(17, 30)]


def test_a_mark_is_not_met_twice(path, opened):
    """What was said of a file of this size is not true of another one, however it came to have it again."""
    file = opened(path, max_bytes=4096)
    file.append(events(*range(100, 120)))
    file.read(99, ALL)
    file.read(99, ALL)
    through, size = file.end, file.size_bytes
    file.append(events(*range(200, 220)))
    assert file.size_bytes == size
    file.settle(through)

    assert seqs_of(file.read(99, ALL)) == [*range(200, 220)]


def test_near_the_bound_not_each_write_writes_everything(path, opened, monkeypatch):
    """While as much is read as comes: at most eight bytes for each that is spilled, or nothing."""
    pwrite, written, spilled = os.pwrite, 0, 0

    def count(fd, data, position):
        nonlocal written
        written += len(data)
        return pwrite(fd, data, position)

    monkeypatch.setattr(os, "pwrite", count)
    file = opened(path, max_bytes=200_000)
    with contextlib.suppress(SpillFull):
        for first in range(0, 10_000, 10):
            file.append(events(*range(first, first + 10)))
    written = 0
    for first in range(10_000, 12_000, 10):
        file.read(10, ALL)
        with contextlib.suppress(SpillFull):
            file.append(events(*range(first, first + 10)))
            spilled += 10
    assert spilled > 1500
    assert written / spilled < 10 * file.size_bytes / 1150


def test_little_room_is_taken_at_the_end(path, opened):
    file = opened(path, max_bytes=4096)
    with contextlib.suppress(SpillFull):
        for number in range(100, 1000):
            file.append(events(number))
    file.read(1, ALL)
    file.read(1, ALL)
    with pytest.raises(SpillFull):
        file.append(events(1000))
    file.is_last_chance = True
    file.append(events(1000))


@pytest.mark.parametrize("keep", [Keep.UNTIL_TOLD, Keep.UNTIL_FULL])
def test_what_is_settled_can_be_kept(path, keep):
    """Until somebody says that it is safe; or until there is no room, if nobody ever can."""
    file = SpillFile(path, None, 4096, keep=keep)
    file.append(events(*range(100, 120)))
    file.read(10, ALL)
    file.read(10, ALL)
    if keep is Keep.UNTIL_TOLD:
        with pytest.raises(SpillFull):
            file.append(events(*range(120, 130)))
    else:
        file.append(events(*range(120, 130)))
    file.close(None)
    file = SpillFile(path, None, 4096, keep=keep)
    assert file.recovered == 20
    file.read(20, ALL)
    file.settle(file.end)
    file.append(events(*range(120, 130)))
    file.read(20, ALL)
    file.settle(file.end)
    file.close(None)
    assert path.exists() == (keep is Keep.UNTIL_FULL)


# --- what the file knows of the store ---------------------------------------------------------------


def test_it_knows_what_the_store_had_acknowledged(path, opened):
    """As it was when something was written, or the file was left."""
    file = opened(path)
    file.note_stored(16)
    file.append(events(17, 18, 19))
    file.read(1, ALL)
    file.note_stored(17)
    file.read(1, ALL)
    for known, leave in ((16, lambda: file.close((), is_exact=False)), (17, lambda: file.close(events(18)))):
        content = path.read_bytes()
        copy = path.with_name(str(known))
        if known == 17:
            leave()
            content = path.read_bytes()
        copy.write_bytes(content)
        other = opened(copy)
        assert other.known_seq == known
        assert other.number_after(0) == max(known, 16)
        assert other.number_after(30) == 30


def test_numbers_go_on_after_those_that_the_lines_had(path, opened):
    """Somebody may have read up to there, if the store had them and lost them."""
    file = opened(path)
    file.append(events(5, 9, 12))
    file.close((), is_exact=False)
    assert opened(path).number_after(4) == 9


def test_a_mark_that_is_damaged_says_nothing(path, opened):
    file = opened(path)
    file.note_stored(16)
    file.append(events(17))
    file.close((), is_exact=False)
    path.write_bytes(path.read_bytes().replace(b'"durable_seq": 16', b'"durable_seq": 96'))
    again = opened(path, first_seq=1)
    assert again.known_seq == 0
    assert again.recovered == 1
    assert seqs_of(again.read(9, ALL)) == [1]


def test_what_only_the_file_knows_stays_in_it(path, opened):
    """The store was put back, and nothing came to it since."""
    file = opened(path)
    file.note_stored(16)
    file.append(events(17))
    file.close((), is_exact=False)
    for _ in range(2):
        file = opened(path)
        file.number_from(17)
        file.note_stored(3)
        file.read(9, ALL)
        file.settle(file.end)
        file.close(None)
        assert path.exists()
    file = opened(path)
    assert (file.recovered, file.known_seq) == (0, 16)
    file.note_stored(17)
    file.close(None)
    assert not path.exists()
