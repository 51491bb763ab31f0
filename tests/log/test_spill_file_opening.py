"""Who may open a spill file, and what is found in it."""

import os
import re
import stat
import subprocess
import sys
import textwrap

import pytest

from tests._helpers.spill import ALL, HEADER, events, seqs_of
from trio_eventlog import LogBusy, SpillError
from trio_eventlog._log import _spill_file
from trio_eventlog._log._spill_file import SpillFile

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
    opened.release()
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
