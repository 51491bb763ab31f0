"""The spill file on its disk, whatever is in it: what fails is mended before anything else is written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trio_eventlog import LogBusy
from trio_eventlog._log._spill_disk import SpillDisk


@pytest.fixture
def disk(path: Path) -> Iterator[SpillDisk]:
    disk = SpillDisk.open(path)
    disk.append(b"0123456789")
    yield disk
    disk.close()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Lets system calls fail until the test says otherwise."""

    def fail(*_arguments: Any) -> Any:
        raise OSError(errno.EIO, "broken")

    def break_them(*calls: str) -> None:
        monkeypatch.undo()
        for call in calls:
            monkeypatch.setattr(os, call, fail)

    yield break_them
    monkeypatch.undo()


def test_what_was_written_in_vain_is_cut_off(
    disk: SpillDisk, path: Path, broken: Callable[..., None]
) -> None:
    broken("fsync", "ftruncate")
    with pytest.raises(OSError, match="broken"):
        disk.append(b"in vain, and longer")
    assert (disk.size, path.stat().st_size) == (10, 29)
    broken()
    disk.append(b"x")
    assert path.read_bytes() == b"0123456789x"


@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "fsync"])
def test_nothing_is_written_before_all_is_mended(
    disk: SpillDisk, path: Path, broken: Callable[..., None], call: str
) -> None:
    disk.was_cut_off(4, b"TOP")
    broken(call)
    with pytest.raises(OSError, match="broken"):
        disk.append(b"x")
    assert b"x" not in path.read_bytes()
    broken()
    disk.append(b"x")
    assert path.read_bytes() == b"TOP3x"


def test_a_name_that_could_not_be_synced_is_synced_first(
    disk: SpillDisk, path: Path, broken: Callable[..., None]
) -> None:
    opened: list[str] = []

    def open_none(name: Any, *arguments: Any) -> int:
        opened.append(str(name))
        raise OSError(errno.EIO, "broken")

    disk.rewrite(b"", 5)
    assert path.read_bytes() == b"56789"
    disk.take_up(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", open_none)
        with pytest.raises(OSError, match="broken"):
            disk.append(b"x")
    assert opened == [str(path.parent)]
    assert path.read_bytes() == b"56789"
    disk.append(b"x")
    assert path.read_bytes() == b"56789x"


def test_a_cut_that_was_not_synced_is_made_again(
    disk: SpillDisk, path: Path, broken: Callable[..., None]
) -> None:
    broken("fsync")
    with pytest.raises(OSError, match="broken"):
        disk.truncate(2)
    assert disk.size == 2
    with pytest.MonkeyPatch.context() as patch:
        # What is written before could be mixed with what was there.
        patch.setattr(os, "pwrite", lambda *_: pytest.fail("written before the cut was on the disk"))
        with pytest.raises(OSError, match="broken"):
            disk.append(b"x")
    broken()
    disk.append(b"x")
    assert path.read_bytes() == b"01x"


@pytest.mark.parametrize("is_damaged", [True, False])
def test_what_is_damaged_is_kept_under_another_name(disk: SpillDisk, path: Path, is_damaged: bool) -> None:
    disk.is_damaged = is_damaged
    disk.rewrite(b"new", 8)
    assert path.read_bytes() == b"new89"
    assert [one.read_bytes() for one in path.parent.glob("*.damaged-*")] == [b"0123456789"] * is_damaged

    disk.is_damaged = is_damaged
    disk.remove()
    assert not path.exists()
    assert len(list(path.parent.glob("*.damaged-*"))) == 2 * is_damaged


def test_what_cannot_be_opened_is_not_locked(path: Path, broken: Callable[..., None]) -> None:
    SpillDisk.open(path).close()
    other = path.with_name("other")
    os.link(path, other)
    disk = SpillDisk.open(path)
    for _ in range(2):
        with pytest.raises(LogBusy, match="perhaps under another name"):
            SpillDisk.open(other)
    disk.close()
    broken("fstat")
    with pytest.raises(OSError, match="broken"):
        SpillDisk.open(other)
    broken()
    SpillDisk.open(other).close()
