"""A spill file that is damaged, that others change while it is open, or whose disk fails."""

import errno
import os
import resource
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.spill import ALL, HEADER, events, seqs_of
from trio_eventlog._log._spill_file import SpillFile

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


def test_a_file_that_is_cut_off_after_a_write_that_failed(path, opened, monkeypatch):
    """What is left is read to its end, and not for ever: nothing makes the file as long as it was."""
    file = opened(path)
    file.append(events(1, 2, 3))
    content = path.read_bytes()

    def broken(*_arguments):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        patch.setattr(os, "ftruncate", broken)
        with pytest.raises(OSError, match="broken"):
            file.append(events(4))
    os.truncate(path, content.index(b"id-2"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", broken)
        with pytest.raises(OSError, match="broken"):
            file.append(events(4))
    load = file.read(9, ALL)
    assert (seqs_of(load), load.is_last, load.end) == ([1], True, file.end)
    assert b"\0" not in path.read_bytes()


@pytest.mark.parametrize(("byte", "found"), [(b"x", [1, 2]), (b"\0", [1, 2, 3])])
def test_a_last_line_break_that_is_overwritten_under_us(path, opened, byte, found):
    """The line ends all the same: reading comes to an end, and what comes later is found."""
    file = opened(path)
    file.append(events(1, 2, 3))
    with path.open("r+b") as other:
        other.seek(-1, os.SEEK_END)
        other.write(byte)
    load = file.read(9, ALL)
    assert (seqs_of(load), load.is_last, load.end) == (found, True, file.end)

    file.append(events(4))
    assert seqs_of(file.read(9, ALL)) == [4]
    file.close(None)
    assert list(path.parent.glob("*.damaged-*"))


@pytest.mark.parametrize("size", [0, 20, len(HEADER)])
def test_a_file_that_is_emptied_under_us(path, opened, size):
    """Its header is written again with the next event. An earlier run's seqs go with its lines."""
    opened(path).append(events(1, 2))
    opened.release()
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
