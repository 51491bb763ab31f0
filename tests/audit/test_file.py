"""The file of checkpoints: appended to, torn, damaged, and used by two at once."""

import os
from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.audit import a_signer, persisted
from tests._helpers.examples import few
from trio_eventlog.audit import AuditError, Signer, _file
from trio_eventlog.audit._file import CheckpointFile, read_lines
from trio_eventlog.audit._leaves import LeafHasher
from trio_eventlog.audit._records import Record, Sealer, parse_record, ranges_of


def records(count: int, *, size: int = 3) -> list[Record]:
    """Records of a log, one after the other."""
    sealer = Sealer("log", None)
    hasher = LeafHasher(a_signer().commitment_key, "log")
    made = []
    for first in range(1, count * size, size):
        seqs = list(range(first, first + size))
        sealer.add(seqs, hasher.leaves(map(persisted, seqs)))
        made.append(sealer.record(a_signer()))
        sealer.sealed()
    return made


RECORDS = records(4)


def write(path, count):
    path.unlink(missing_ok=True)
    file = CheckpointFile(str(path), a_signer().verifier)
    for record in RECORDS[:count]:
        file.append(record)
    file.close()


def last(path):
    file = CheckpointFile(str(path), a_signer().verifier)
    file.close()
    return file.last


def test_a_file_ends_where_it_was_left(tmp_path):
    path = tmp_path / "checkpoints"
    for count in range(len(RECORDS)):
        file = CheckpointFile(str(path), a_signer().verifier)
        assert file.last == (RECORDS[count - 1] if count else None)
        file.append(RECORDS[count])
        assert file.last == RECORDS[count]
        file.close()
    assert [parse_record(line, a_signer().verifier) for line in read_lines(str(path))] == RECORDS


@few(20)
@given(st.integers(0, 3), st.data())
def test_a_torn_record_leaves_nothing_wrong(tmp_path_factory, count, data):
    """Wherever a kill cut it off, and also if a loss of power left zeros in it."""
    path = tmp_path_factory.mktemp("torn") / "checkpoints"
    write(path, count)
    whole = path.read_bytes()
    line = RECORDS[count].line()
    torn = line[: data.draw(st.integers(0, len(line) - 1))]
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(line) - 1))
        end = data.draw(st.integers(start + 1, len(line)))
        torn = line[:start] + bytes(end - start) + line[end:]
    path.write_bytes(whole + torn)

    assert b"".join(read_lines(str(path))) == whole
    assert last(path) == (RECORDS[count - 1] if count else None)
    # The next record is longer or shorter than what is left of this one.
    write_over = CheckpointFile(str(path), a_signer().verifier)
    write_over.append(RECORDS[count])
    write_over.close()
    assert path.read_bytes() == whole + line


def test_what_is_left_of_a_longer_record_goes(tmp_path):
    """A run that goes on may seal earlier than the one that was killed."""
    path = tmp_path / "checkpoints"
    path.write_bytes(records(1, size=400)[0].line()[:-1])
    file = CheckpointFile(str(path), a_signer().verifier)
    file.append(RECORDS[0])
    file.close()

    assert path.read_bytes() == RECORDS[0].line()


def test_long_lines_are_found_from_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(_file, "_BLOCK", 1_000)
    path = tmp_path / "checkpoints"
    long = records(2, size=1_000)
    file = CheckpointFile(str(path), a_signer().verifier)
    for record in long:
        file.append(record)
    file.close()
    assert len(long[0].line()) > 3 * 1_000
    with path.open("ab") as file:
        file.write(long[0].line()[:2_500])

    assert last(path) == long[1]


def test_a_failed_write_is_written_over(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints"
    file = CheckpointFile(str(path), a_signer().verifier)
    file.append(RECORDS[0])
    pwrite = os.pwrite
    calls = iter([lambda fd, data, place: pwrite(fd, data[:10], place)])

    def full(fd, data, place):
        for call in calls:
            return call(fd, data, place)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(AuditError, match="checkpoints: No space left"):
        file.append(RECORDS[1])
    assert file.last == RECORDS[0]
    monkeypatch.undo()
    file.append(RECORDS[1])
    file.close()
    assert path.read_bytes() == RECORDS[0].line() + RECORDS[1].line()


def test_a_record_is_synced_before_it_counts(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_size), fsync(fd)))
    path = tmp_path / "checkpoints"
    file = CheckpointFile(str(path), a_signer().verifier)
    assert len(synced) == 1  # the directory
    file.append(RECORDS[0])
    assert synced[1:] == [len(RECORDS[0].line())]
    file.close()


def test_one_at_a_time(tmp_path):
    path = str(tmp_path / "checkpoints")
    file = CheckpointFile(path, a_signer().verifier)
    with pytest.raises(AuditError, match="another recorder has this file open"):
        CheckpointFile(path, a_signer().verifier)
    file.close()
    CheckpointFile(path, a_signer().verifier).close()


@pytest.mark.parametrize("content", [b"{}\n", b"something else\n", b'{"format":1}\n'])
def test_a_file_of_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "checkpoints"
    path.write_bytes(content)

    with pytest.raises(AuditError, match="its last line: not a record of a checkpoint"):
        CheckpointFile(str(path), a_signer().verifier)
    assert path.read_bytes() == content


def test_a_file_of_another_key(tmp_path):
    write(tmp_path / "checkpoints", 2)

    with pytest.raises(AuditError, match="its last line: the note is not signed by this key"):
        CheckpointFile(str(tmp_path / "checkpoints"), Signer.generate().verifier)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(AuditError, match="No such file"):
        CheckpointFile(str(tmp_path / "no" / "file"), a_signer().verifier)
    with pytest.raises(AuditError, match="Is a directory"):
        CheckpointFile(str(tmp_path), a_signer().verifier)
    with pytest.raises(AuditError, match="No such file"):
        read_lines(str(tmp_path / "none"))


def changed(record, **changes):
    return attrs.evolve(record, **changes).line()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (changed(RECORDS[1], frontier=RECORDS[0].frontier), "the frontier beside the note"),
        (changed(RECORDS[1], frontier=()), "the frontier beside the note"),
        (changed(RECORDS[1], frontier=(b"x",)), "the frontier beside the note"),
        (changed(RECORDS[1], last_seq=5), "the last seq beside the note"),
        (changed(RECORDS[1], last_seq=2**63), "the last seq beside the note"),
        (changed(RECORDS[1], ranges=((4, 7),)), "the seqs beside the note do not ascend"),
        (changed(RECORDS[1], ranges=((5, 6), (4, 4))), "the seqs beside the note do not ascend"),
        (changed(RECORDS[1], prints=b"x"), "not as many as the leaves"),
        (changed(RECORDS[1], note=RECORDS[1].note.replace("log", "lot")), "not signed by this key"),
        (RECORDS[1].line().replace(b'"format":1', b'"format":2'), "it has format 2"),
        (RECORDS[1].line().replace(b'"frontier":"', b'"frontier":"!'), "not a record"),
        (b"[" * 100_000, "not a record"),
    ],
)
def test_a_record_that_disagrees_with_itself(line, why):
    with pytest.raises(AuditError, match=why):
        parse_record(line, a_signer().verifier)


@given(st.sets(st.integers(1, 30)))
def test_ranges(seqs):
    ranges = ranges_of(sorted(seqs))

    assert [seq for first, last in ranges for seq in range(first, last + 1)] == sorted(seqs)
    assert all(after - before > 1 for (_, before), (after, _) in pairwise(ranges))


@pytest.mark.parametrize(
    "content",
    [b"important, and without a line end", b"no\0text\n\0", b'{"event": 1}', b"-----BEGIN", b"\xef\xbb\xbf"],
)
def test_a_file_of_something_else_is_not_written_over(tmp_path, content):
    """What was named by mistake is not taken for a record that was not written to its end."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(AuditError, match=r"notes\.txt: its last line: not a record"):
        CheckpointFile(str(path), a_signer().verifier)
    assert path.read_bytes() == content
