"""The spill file alone: a queue of events on disk that survives what disks and processes do."""

import contextlib
import errno
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.fakes import numbered
from trio_eventlog import LogBusy, PersistedEvent, SpillError, to_json
from trio_eventlog._log import _spill_disk, _spill_file
from trio_eventlog._log._spill_file import Keep, SpillFile, SpillFull

ALL = 10**9
HEADER = b'{"trio_eventlog": "spill", "version": 1, "log_id": null}\n'


def event(seq, payload=None):
    inner = numbered(seq) if payload is None else type(numbered(seq))("worker", "step", payload)
    return PersistedEvent(f"id-{seq}", seq, 1_700_000_000_000 + seq, "worker", inner)


def events(*seqs):
    return [event(seq) for seq in seqs]


def seqs_of(load):
    return [event.seq for event in load.events]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.spill"


@pytest.fixture
def opened():
    """Opens spill files, and leaves as they are those that the test did not close."""
    files = []

    def open_it(path, log_id=None, max_bytes=ALL, first_seq=None):
        file = SpillFile(path, log_id, max_bytes)
        files.append(file)
        if first_seq is not None:
            file.number_from(first_seq)
        return file

    yield open_it
    for file in files:
        file.close((), is_exact=False)


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
        for module in (_spill_file, _spill_disk):
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
    _release(path, opened)
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


# --- what processes do ----------------------------------------------------------------------------


def test_a_torn_tail_is_cut_off_wherever_it_was_torn(path, opened):
    file = opened(path)
    file.append(events(1, 2))
    whole = file.size_bytes
    file.append(events(3))
    content = path.read_bytes()
    file.close((), is_exact=False)

    for length in range(len(HEADER), len(content)):
        path.write_bytes(content[:length])
        file = SpillFile(path, None, ALL)
        file.number_from(1)
        found = seqs_of(file.read(9, ALL))
        assert found == ([1, 2] if length >= whole else [1] if length >= content.find(b"\n", 60) + 1 else [])
        file.append(events(4))
        assert seqs_of(file.read(9, ALL)) == [4]
        file.close((), is_exact=False)


def test_a_torn_header_is_that_of_a_new_file(path, opened):
    for length in range(len(HEADER)):
        path.write_bytes(HEADER[:length])
        file = SpillFile(path, None, ALL)
        assert file.recovered == 0
        assert path.read_bytes() == HEADER
        file.close(None)


def test_one_log_at_a_time(path, opened):
    opened(path)
    with pytest.raises(LogBusy, match=r"the spill file .*log\.spill is open for writing already"):
        SpillFile(path, None, ALL)


def test_one_process_at_a_time(path, opened):
    """And none once the other was killed."""
    code = f"""
    from trio_eventlog._log._spill_file import SpillFile
    file = SpillFile({str(path)!r}, None, 10**9)
    print("open", flush=True)
    input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(LogBusy, match=f"elsewhere .process {other.pid}"):
            SpillFile(path, None, ALL)
        other.kill()
        other.wait()
    opened(path).append(events(1))


def test_nobody_else_may_read_it(path, opened):
    opened(path).append(events(1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_leads_to_the_file(tmp_path, opened):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    opened(tmp_path / "link").append(events(1))
    assert (tmp_path / "file").exists()
    with pytest.raises(LogBusy):
        SpillFile(tmp_path / "file", None, ALL)


# --- files that are not what they should be -------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"something else\n", "this is no spill file; name another one, or move this one away"),
        (b"something else", "no spill file"),
        (b"\n", "no spill file"),
        (b"{}\n", "no spill file"),
        (b"[]\n", "no spill file"),
        (b'{"trio_eventlog": "spill"}\n', "no spill file"),
        (HEADER.replace(b"1", b"2"), "another version of trio_eventlog .layout 2, this one knows 1"),
    ],
)
def test_a_file_of_somebody_else_is_left_alone(path, content, message):
    path.write_bytes(content)
    with pytest.raises(SpillError, match=re.escape(str(path)) + ".*" + message):
        SpillFile(path, None, ALL)
    assert path.read_bytes() == content
    # Nor is it locked from then on.
    path.unlink()
    SpillFile(path, None, ALL).close(None)


def test_the_events_of_another_log_are_refused(path):
    file = SpillFile(path, "log-a", ALL)
    file.append(events(1))
    file.close((), is_exact=False)

    with pytest.raises(SpillError, match=r"events of another log .log-a, not log-b.; open that log with it"):
        SpillFile(path, "log-b", ALL)
    # A store that does not say which log it is cannot be asked.
    file = SpillFile(path, None, ALL)
    assert file.recovered == 1
    file.close((), is_exact=False)


def test_a_file_without_events_may_be_taken_over(path):
    SpillFile(path, "log-a", ALL).close(())
    file = SpillFile(path, "log-b", ALL)
    file.append(events(1))
    file.close((), is_exact=False)
    with pytest.raises(SpillError):
        SpillFile(path, "log-a", ALL)


@pytest.mark.parametrize("make", ["mkdir", "mkfifo"])
def test_what_is_no_file(path, make):
    getattr(os, make)(path)
    with pytest.raises(SpillError, match=r"log\.spill: (Is a directory|not a regular file)"):
        SpillFile(path, None, ALL)


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(SpillError, match=r"none/file: No such file or directory"):
        SpillFile(tmp_path / "none" / "file", None, ALL)


def test_a_lock_that_is_no_file(path):
    path.with_name("log.spill.lock").mkdir()
    with pytest.raises(SpillError, match=r"log\.spill: .*log\.spill\.lock: Is a directory"):
        SpillFile(path, None, ALL)


# --- damage ---------------------------------------------------------------------------------------


@given(st.data())
def test_one_flipped_bit_costs_one_event(tmp_path_factory, data):
    """Or two, if it is their line break; the others come out, and the file is kept."""
    directory = tmp_path_factory.mktemp("spill")
    path = directory / "file"
    file = SpillFile(path, None, ALL)
    file.append(events(*range(1, 6)))
    file.close((), is_exact=False)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(len(HEADER), len(content) - 2))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)

    file = SpillFile(path, None, ALL)
    file.number_from(1)
    found = [one.id for one in file.read(99, ALL).events]
    file.close(None)

    expected = [f"id-{n}" for n in range(1, 6)]
    assert [one for one in expected if one in found] == found
    assert len(found) >= 4 - (content.count(b"\n") < 6)
    kept = list(directory.glob("file.damaged-*"))
    if len(found) < 5 and content.count(b"\n") >= 6:
        assert [one.read_bytes() for one in kept] == [bytes(content)]
    assert not path.exists()


@pytest.mark.parametrize("zeros", [1, 300, 5000, 3 * 1024 * 1024])
@pytest.mark.parametrize("place", ["before", "between", "behind", "instead of the header", "alone"])
def test_zeros_are_nothing(path, opened, zeros, place):
    """File systems leave them after a loss of power. What is among them is found, and nothing is missed."""
    file = opened(path)
    file.append(events(1, 2))
    file.close((), is_exact=False)
    header, *lines = path.read_bytes().splitlines(keepends=True)
    gap = bytes(zeros)
    content = {
        "before": header + gap + b"".join(lines),
        "between": header + lines[0] + gap + lines[1],
        "behind": header + b"".join(lines) + gap,
        "instead of the header": gap + b"".join(lines),
        "alone": gap,
    }[place]
    path.write_bytes(content)

    file = opened(path, first_seq=1)
    found = [] if place == "alone" else [1, 2]
    assert file.recovered == len(found)
    assert seqs_of(file.read(9, ALL)) == found
    file.append(events(3))
    assert seqs_of(file.read(9, ALL)) == [3]
    file.close(None)
    kept = [one.read_bytes() for one in path.parent.glob("*.damaged-*")]
    if place in ("behind", "alone") and zeros <= 4096:
        assert kept == []
    elif place != "behind":
        assert [one[: len(content)] for one in kept] == [content]


@pytest.mark.parametrize("name", ["log.spill", "n" * 250])
def test_a_header_that_is_damaged(tmp_path, opened, name):
    """What has our events is ours. It is told and kept, under a name that is short enough."""
    path = tmp_path / name
    file = opened(path)
    file.append(events(1, 2))
    file.close((), is_exact=False)
    content = path.read_bytes().replace(b"spill", b"spoil", 1)
    path.write_bytes(content)

    file = opened(path, first_seq=1)
    assert file.was_damaged
    assert seqs_of(file.read(9, ALL)) == [1, 2]
    (kept,) = tmp_path.glob("*.damaged-*")
    assert kept.read_bytes() == content


def test_where_a_file_cannot_have_two_names_a_copy_is_kept(path, opened, monkeypatch):
    file = opened(path)
    file.append(events(1, 2))
    content = path.read_bytes().replace(b'"id-1"', b'"id-X"')
    path.write_bytes(content)
    file.read(9, ALL)

    def refuse(*_arguments):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    file.settle(file.end)
    (kept,) = path.parent.glob("*.damaged-*")
    assert kept.read_bytes() == content
    assert path.read_bytes() == HEADER


def test_a_line_that_lost_its_break_still_has_its_neighbour(path, opened):
    file = opened(path)
    file.append(events(1, 2, 3))
    file.close((), is_exact=False)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:-1] + b"x" + lines[2] + lines[3])

    again = opened(path, first_seq=1)
    assert [one.id for one in again.read(9, ALL).events] == ["id-2", "id-3"]
    again.close(None)
    assert list(path.parent.glob("*.damaged-*"))


def test_a_damaged_file_is_kept_when_it_is_written_anew(path, opened):
    file = opened(path)
    file.append(events(1, 2, 3))
    content = path.read_bytes().replace(b'"id-1"', b'"id-X"')
    path.write_bytes(content)
    assert seqs_of(file.read(2, ALL)) == [2]
    file.close(events(2))

    (kept,) = path.parent.glob("*.damaged-*")
    assert kept.read_bytes() == content
    assert [one.id for one in opened(path, first_seq=1).read(9, ALL).events] == ["id-2", "id-3"]


def test_what_is_checked_but_no_event(path, opened):
    """Somebody wrote it who can count; it is damage all the same."""
    file = opened(path)
    file.append(events(1))
    file.close((), is_exact=False)
    path.write_bytes(path.read_bytes() + b'%08x {"id": 1}\n' % __import__("zlib").crc32(b'{"id": 1}'))

    assert [one.id for one in opened(path, first_seq=1).read(9, ALL).events] == ["id-1"]


def test_a_file_that_is_cut_off_under_us(path, opened):
    """What was cut off is gone, and is missed; what comes later stands behind what is left, and no hole."""
    file = opened(path)
    file.append(events(1, 2, 3))
    through = file.end
    content = path.read_bytes()
    os.truncate(path, content.index(b"\n", len(HEADER)) + 10)
    load = file.read(9, ALL)
    assert (seqs_of(load), load.is_last, load.end) == ([1], True, through)

    file.append(events(4))
    assert path.read_bytes().count(b"\0") == 0
    assert seqs_of(file.read(9, ALL)) == [4]
    file.settle(through)
    file.append(events(5))
    assert seqs_of(file.read(9, ALL)) == [5]
    file.close(None)
    assert list(path.parent.glob("*.damaged-*"))


@pytest.mark.parametrize("size", [0, 20, len(HEADER)])
def test_a_file_that_is_emptied_under_us(path, opened, size):
    """Its header is written again with the next event. An earlier run's seqs go with its lines."""
    opened(path).append(events(1, 2))
    _release(path, opened)
    file = opened(path, first_seq=11)
    os.truncate(path, size)
    file.append(events(13, 14))
    file.close((), is_exact=False)

    assert [one.seq for one in opened(path).read(9, ALL).events] == [1, 2]
    assert path.read_bytes().startswith(HEADER)
    assert b'"id-13"' in path.read_bytes()


def test_a_file_that_is_removed_under_us_comes_back(path, opened):
    file = opened(path)
    file.append(events(1, 2))
    path.unlink()
    file.append(events(3))
    file.close((), is_exact=False)

    assert [one.id for one in opened(path, first_seq=1).read(9, ALL).events] == ["id-1", "id-2", "id-3"]


def test_a_file_that_is_removed_before_the_end(path, opened):
    """Nothing more was written, and what was pending is there all the same."""
    file = opened(path)
    file.append(events(1, 2))
    path.unlink()
    file.close((), is_exact=False)

    assert [one.id for one in opened(path, first_seq=1).read(9, ALL).events] == ["id-1", "id-2"]


def test_a_file_that_is_replaced_under_us(path, opened):
    """What somebody else put there is not ours to destroy."""
    file = opened(path)
    file.append(events(1))
    path.unlink()
    path.write_bytes(b"precious")
    file.append(events(2))

    (kept,) = path.parent.glob("*.damaged-*")
    assert kept.read_bytes() == b"precious"
    assert seqs_of(file.read(9, ALL)) == [1, 2]
    path.unlink()
    path.write_bytes(b"dear")
    file.close(None)
    assert path.read_bytes() == b"dear"


def test_a_directory_that_is_renamed_under_us(tmp_path, opened):
    """Nothing can be written under the old name; what is there can be read."""
    directory = tmp_path / "directory"
    directory.mkdir()
    file = opened(directory / "file")
    file.append(events(1))
    directory.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        file.append(events(2))
    assert seqs_of(file.read(9, ALL)) == [1]
    (tmp_path / "elsewhere").rename(directory)
    file.append(events(2))
    assert seqs_of(file.read(9, ALL)) == [2]


def test_another_name_of_the_file(tmp_path, opened):
    """Two logs must not write into one file, whatever it is called."""
    opened(tmp_path / "file").append(events(1))
    os.link(tmp_path / "file", tmp_path / "name")
    with pytest.raises(LogBusy, match="open for writing already, perhaps under another name"):
        SpillFile(tmp_path / "name", None, ALL)


def test_a_lock_file_that_is_removed(path, opened, monkeypatch):
    """As by somebody who cleans up: the file itself is locked, too, also once it was written anew."""
    monkeypatch.setattr(_spill_file, "_MAX_DEAD", 100)
    code = f"from trio_eventlog._log._spill_file import SpillFile; SpillFile({str(path)!r}, None, 10**9)"
    file = opened(path)
    for first in (1, 11):
        file.append(events(*range(first, first + 9)))
        file.read(8, ALL)
        file.read(1, ALL)
        path.with_name("log.spill.lock").unlink()
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "LogBusy: the spill file" in other.stderr


def test_a_process_that_is_forked_off_does_not_keep_the_lock(path, opened):
    file = opened(path)
    read_end, write_end = os.pipe()
    if not (child := os.fork()):
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    file.append(events(1))
    file.close((), is_exact=False)
    try:
        assert opened(path).recovered == 1
    finally:
        os.close(write_end)
        os.waitpid(child, 0)


@pytest.mark.parametrize("content", [b"", HEADER[:20], bytes(300), HEADER + b"1c29"])
def test_what_a_killed_process_was_writing_anew_goes(path, opened, content):
    opened(path).append(events(1))
    _release(path, opened)
    new = path.with_name("log.spill.new")
    new.write_bytes(content)

    assert opened(path).recovered == 1
    assert not new.exists()


def test_what_somebody_else_calls_so_stays(path, opened):
    file = opened(path, max_bytes=4096)
    new = path.with_name("log.spill.new")
    new.write_bytes(b"precious")
    file.append(events(*range(1, 20)))
    file.read(15, ALL)
    file.read(1, ALL)
    with pytest.raises(FileExistsError, match=r"log\.spill\.new"):
        file.append(events(*range(20, 30)))
    assert new.read_bytes() == b"precious"
    new.unlink()
    file.append(events(*range(20, 30)))


def test_nothing_is_done_once_it_is_closed(path):
    """Also not by a thread that was given up on: the number of the descriptor is another file's by then."""
    file = SpillFile(path, None, ALL)
    file.append(events(1))
    file.close((), is_exact=False)
    content = path.read_bytes()
    with path.with_name("precious").open("w+b") as precious:
        for work in (lambda: file.append(events(2)), lambda: file.read(1, ALL), lambda: file.settle(0)):
            with pytest.raises(OSError, match="the spill file is closed"):
                work()
        file.close(None)
        assert precious.read() == b""
    assert path.read_bytes() == content


# --- disks that are full or broken ----------------------------------------------------------------


def test_a_full_disk_changes_nothing(path, opened):
    """A limit of the process stands for it: the system writes what fits, and then fails."""
    file = opened(path)
    file.append(events(1))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(OSError) as caught:
            file.append(events(2, 3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == before

    file.append(events(2))
    assert seqs_of(file.read(9, ALL)) == [1, 2]


@pytest.mark.parametrize("call", ["fsync", "pwrite"])
def test_a_write_that_fails_can_be_repeated(path, opened, monkeypatch, call):
    file = opened(path)
    file.append(events(1))
    with monkeypatch.context() as patch:

        def broken(*_arguments):
            raise OSError(errno.EIO, "broken")

        patch.setattr(os, call, broken)
        with pytest.raises(OSError, match="broken"):
            file.append(events(2))
    file.append(events(2, 3))
    assert seqs_of(file.read(9, ALL)) == [1, 2, 3]


@pytest.mark.parametrize("call", ["fsync", "pwrite", "replace"])
def test_writing_anew_that_fails_changes_nothing(path, opened, monkeypatch, call):
    file = opened(path, max_bytes=4096)
    file.append(events(*range(1, 20)))
    file.read(15, ALL)
    file.read(1, ALL)
    before = path.read_bytes()
    with monkeypatch.context() as patch:

        def broken(*_arguments):
            raise OSError(errno.EIO, "broken")

        patch.setattr(os, call, broken)
        with pytest.raises(OSError, match="broken"):
            file.append(events(*range(20, 30)))
    assert path.read_bytes() == before
    assert not path.with_name("log.spill.new").exists()
    file.append(events(*range(20, 30)))
    assert seqs_of(file.read(99, ALL)) == [*range(17, 30)]


def _release(path, opened):
    """As a process does that ends."""
    for file in opened.__closure__[0].cell_contents:
        file.close((), is_exact=False)
