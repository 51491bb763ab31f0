"""An archive on the disk. Everything here blocks, and belongs in a thread.

A segment is written under a name that ends in ``.part``, synced, and read back. Then its manifest gets its
name, and then the segment gets its own. Only after that are its events deleted from the store. So what a
process leaves that is killed in between is one of these:

* a ``.part`` without a manifest: its events are still in the store, and it is removed
* a ``.part`` with a manifest: it is whole, and gets its name
* a whole segment whose events are still in the store: see ``_retain``
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Self

import attrs

from trio_eventlog import CodecError, EventLogError, PersistedEvent, from_json, to_json
from trio_eventlog._util import how_to_install
from trio_eventlog.audit import Checkpoints
from trio_eventlog.retention._manifest import PART, ArchiveSegment, ManifestError, data_name, manifest_name

_MANIFEST: Final = re.compile(r"events-(\d{6,18})\.json")
_DATA: Final = re.compile(r"events-\d{6,18}\.jsonl\.zst")

_BLOCK: Final = 2**18
"""Bytes to read at once."""

_MAX_LINE: Final = 2**30
"""Bytes of an event at most: no store takes one that is larger."""

_MAX_EVENTS: Final = 100_000
_MAX_BYTES: Final = 64 * 2**20
"""Of a segment, uncompressed, after which the next one begins."""


class ArchiveError(EventLogError):
    """An archive is damaged, is in use, or belongs to another log; or what it needs is not installed."""


class ArchiveInUse(ArchiveError):
    """Another process or task is writing to an archive."""


def zstd() -> Any:
    """The module for Zstandard.

    Raises:
      ArchiveError: it is not installed.
    """
    try:
        return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError as exc:
        raise ArchiveError(
            f"an archive needs Zstandard; install it with: {how_to_install('archive')}"
        ) from exc


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _create(path: Path) -> int:
    # Events may be confidential.
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


# --- reading --------------------------------------------------------------------------------------


def segments_of(directory: str | os.PathLike[str]) -> list[ArchiveSegment]:
    """The segments of an archive, in the order in which they were written. Blocks.

    Raises:
      ArchiveError: a manifest is damaged.
      OSError: the directory cannot be read.
    """
    place = Path(directory)
    return [_read_manifest(place, number) for number in _numbers(place)]


def _numbers(directory: Path) -> list[int]:
    found = (_MANIFEST.fullmatch(path.name) for path in directory.iterdir())
    return sorted(int(name[1]) for name in found if name)


def _read_manifest(directory: Path, number: int) -> ArchiveSegment:
    path = directory / manifest_name(number)
    try:
        found = ArchiveSegment.from_manifest(path.read_bytes())
    except ManifestError as exc:
        raise ArchiveError(f"{path}: {exc}") from exc
    if found.number != number:
        raise ArchiveError(f"{path}: the manifest of segment {found.number}")
    return found


def read_segment(path: Path, segment: ArchiveSegment) -> Iterator[list[PersistedEvent]]:
    """The events of a segment, in pages. What is yielded is certain only at the end.

    Raises:
      ArchiveError: the file is not there, or not what was written.
      OSError: it cannot be read.
    """
    module = zstd()
    digest = hashlib.sha256()
    lines, count, last, first, size = _Lines(), 0, 0, 0, 0
    try:
        with path.open("rb") as file:
            decompressor = module.ZstdDecompressor()
            while data := file.read(_BLOCK):
                digest.update(data)
                while data or not (decompressor.needs_input or decompressor.eof):
                    # Bounds the output, however much a few bytes may expand to.
                    text = decompressor.decompress(data, _BLOCK)
                    size += len(text)
                    data = b""
                    page = [from_json(line, PersistedEvent) for line in lines.split(text)]
                    for event in page:
                        if event.seq <= last:
                            raise ArchiveError(f"{path}: seq {event.seq} comes after seq {last}")
                        first, last = first or event.seq, event.seq
                    count += len(page)
                    if page:
                        yield page
            is_whole = decompressor.eof and not decompressor.unused_data and not lines.rest
    except FileNotFoundError as exc:
        raise ArchiveError(f"{path}: the file is not there") from exc
    except (module.ZstdError, EOFError, CodecError) as exc:
        raise ArchiveError(f"{path}: damaged: {exc}") from exc
    expected = (segment.sha256, segment.count, segment.first_seq, segment.last_seq, segment.size_bytes)
    if not is_whole or (digest.hexdigest(), count, first, last, size) != expected:
        raise ArchiveError(f"{path}: damaged: it is not what its manifest says")


class _Lines:
    """Splits text into lines."""

    def __init__(self) -> None:
        self.rest = b""

    def split(self, text: bytes) -> list[bytes]:
        *lines, self.rest = (self.rest + text).split(b"\n")
        if len(self.rest) > _MAX_LINE:
            raise EOFError("a line without an end")
        return lines


@attrs.frozen(kw_only=True)
class ArchiveVerification:
    """What :func:`verify_archive` has found.

    Attributes:
      segments: how many segments there are.
      events: how many events the whole ones have.
      problems: what is wrong, one sentence each.
    """

    segments: int
    events: int
    problems: tuple[str, ...]


def verify_archive(
    directory: str | os.PathLike[str], checkpoints: Checkpoints | None = None
) -> ArchiveVerification:
    """Read a whole archive, and compare it with its manifests. Blocks.

    Each file must have the SHA-256, the events and the seqs that its manifest names, no manifest may be
    missing, and all must be of one log. A segment that a process was writing when it was killed is none.

    Args:
      directory: the archive.
      checkpoints: those of the log. A manifest that names a checkpoint must name the one that covers its
        segment. Whether the events are those that were sealed, :func:`trio_eventlog.audit.verify_checkpoints`
        says.

    Raises:
      ArchiveError: what reading needs is not installed.
      OSError: the directory cannot be read.
    """
    zstd()
    place = Path(directory)
    problems: list[str] = []
    events, logs, numbers = 0, set[str | None](), _numbers(place)
    for number in numbers:
        try:
            segment = _read_manifest(place, number)
            logs.add(segment.log_id)
            problems += _misnamed(place, segment, checkpoints)
            events += sum(map(len, read_segment(segment.path_in(place), segment)))
        except ArchiveError as exc:
            problems.append(str(exc))
        except OSError as exc:
            # An error while reading has no name of a file. The other segments may be whole.
            problems.append(f"{exc.filename or place / data_name(number)}: {exc.strerror}")
    if numbers != list(range(1, len(numbers) + 1)):
        problems.append(f"{place}: manifests are missing: there are {len(numbers)}, up to {numbers[-1]}")
    problems += [f"{path}: there is no manifest of it" for path in _without_manifest(place, numbers)]
    if len(logs - {None}) > 1:
        problems.append(f"{place}: it has segments of {len(logs - {None})} logs")
    return ArchiveVerification(segments=len(numbers), events=events, problems=tuple(problems))


def _misnamed(directory: Path, segment: ArchiveSegment, checkpoints: Checkpoints | None) -> list[str]:
    if checkpoints is None or segment.checkpoint in (None, checkpoints.covering(segment.last_seq)):
        return []
    path = directory / manifest_name(segment.number)
    return [f"{path}: the checkpoint that it names is not the one that covers its events"]


def _without_manifest(directory: Path, numbers: Iterable[int]) -> list[Path]:
    """The files of segments that have lost their manifests."""
    known = {data_name(number) for number in numbers}
    return sorted(
        path for path in directory.iterdir() if _DATA.fullmatch(path.name) and path.name not in known
    )


# --- writing --------------------------------------------------------------------------------------


class Archive:
    """An archive that is being written to. Nobody else does, until it is closed."""

    def __init__(self, directory: Path, log_id: str | None, checkpoints: Checkpoints | None = None) -> None:
        zstd()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory: Final = directory
        self.checkpoints: Final = checkpoints
        """Those that segments are named in, if any."""

        self._log_id = log_id
        self._lock = _locked(directory)
        try:
            self.segments = segments_of(directory)
            self._check_log()
            self._check_manifests()
            self._tidy_up()
        except BaseException:
            self.close()
            raise

    def _check_log(self) -> None:
        others = {segment.log_id for segment in self.segments} - {None, self._log_id}
        if others and self._log_id is not None:
            raise ArchiveError(f"{self.directory}: it has events of another log, {others.pop()}")

    def _check_manifests(self) -> None:
        # The next segment could get the name of such a file, and take the place of what is in it.
        for path in _without_manifest(self.directory, [segment.number for segment in self.segments]):
            raise ArchiveError(f"{path}: there is no manifest of it; put it back, or move the file away")

    def _tidy_up(self) -> None:
        for segment in self.segments:
            if (path := segment.path_in(self.directory)).suffix == PART:
                for _ in read_segment(path, segment):
                    pass
                path.rename(self.directory / segment.file)
                _sync_directory(self.directory)
        for path in self.directory.glob(f"events-*{PART}"):
            path.unlink()

    def begin(self, before_ms: int | None) -> SegmentWriter:
        """Begin the next segment."""
        number = 1 + (self.segments[-1].number if self.segments else 0)
        return SegmentWriter(self, number, self._log_id, before_ms)

    def read(self, segment: ArchiveSegment) -> Iterator[list[PersistedEvent]]:
        """The events of a segment."""
        return read_segment(self.directory / segment.file, segment)

    def close(self) -> None:
        """Let others write."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _locked(directory: Path) -> int:
    import fcntl  # noqa: PLC0415 - where there is one

    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ArchiveInUse(f"{directory}: another process, or task, is writing to this archive") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class SegmentWriter:
    """Writes one segment."""

    def __init__(self, archive: Archive, number: int, log_id: str | None, before_ms: int | None) -> None:
        self._archive = archive
        self._number = number
        self._log_id = log_id
        self._before_ms = before_ms
        self._path = archive.directory / (data_name(number) + PART)
        self._compressor = zstd().ZstdCompressor()
        self._digest = hashlib.sha256()
        self._text_digest = hashlib.sha256()
        self._first_seq = self._last_seq = self._count = self._size = 0
        self._descriptor: int | None = _create(self._path)

    @property
    def is_full(self) -> bool:
        """Whether it is time for the next one."""
        return self._count >= _MAX_EVENTS or self._size >= _MAX_BYTES

    def add(self, events: list[PersistedEvent]) -> None:
        """Add events, one or more, with seqs above all that are in it."""
        text = b"".join(to_json(event) + b"\n" for event in events)
        self._text_digest.update(text)
        self._first_seq = self._first_seq or events[0].seq
        self._last_seq = events[-1].seq
        self._count += len(events)
        self._size += len(text)
        self._write(self._compressor.compress(text))

    def _write(self, data: bytes) -> None:
        assert self._descriptor is not None, "it is neither finished nor discarded"
        self._digest.update(data)
        _write_all(self._descriptor, data)

    def finish(self) -> ArchiveSegment:
        """Sync it, read it back, and make it a part of the archive.

        Raises:
          ArchiveError: what is read back is not what was written.
        """
        self._write(self._compressor.flush())
        descriptor, self._descriptor = self._descriptor, None
        assert descriptor is not None, "it was written to just now"
        try:
            os.fsync(descriptor)
            if hasattr(os, "posix_fadvise"):
                # So that it is read back from the disk.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        checkpoints = self._archive.checkpoints
        segment = ArchiveSegment(
            number=self._number,
            file=data_name(self._number),
            first_seq=self._first_seq,
            last_seq=self._last_seq,
            count=self._count,
            size_bytes=self._size,
            sha256=self._digest.hexdigest(),
            log_id=self._log_id,
            before_ms=self._before_ms,
            checkpoint=None if checkpoints is None else checkpoints.covering(self._last_seq),
        )
        self._read_back(segment)
        self._publish(segment)
        return segment

    def _read_back(self, segment: ArchiveSegment) -> None:
        digest = hashlib.sha256()
        for page in read_segment(self._path, segment):
            for event in page:
                digest.update(to_json(event) + b"\n")
        if digest.digest() != self._text_digest.digest():
            raise ArchiveError(f"{self._path}: what was read back is not what was written")

    def _publish(self, segment: ArchiveSegment) -> None:
        directory = self._archive.directory
        manifest = directory / manifest_name(self._number)
        part = directory / (manifest.name + PART)
        descriptor = _create(part)
        try:
            _write_all(descriptor, segment.manifest())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.rename(manifest)
        _sync_directory(directory)
        self._path.rename(directory / segment.file)
        _sync_directory(directory)
        self._archive.segments.append(segment)

    def discard(self) -> None:
        """Give it up, if it is not finished."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            with suppress(FileNotFoundError):
                self._path.unlink()
