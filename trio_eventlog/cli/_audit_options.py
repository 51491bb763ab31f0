"""Options of the commands that deal with checkpoints, and the files that they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import attrs
import trio
from cyclopts import Parameter

from trio_eventlog import EventStore
from trio_eventlog.audit import (
    AuditError,
    CheckpointReader,
    Checkpoints,
    CheckpointVerification,
    CommitmentKey,
    Verifier,
    verify_checkpoints,
)
from trio_eventlog.cli._options import USAGE_STATUS, Count
from trio_eventlog.cli._terminal import CommandError
from trio_eventlog.retention import read_archive

KeyFile: TypeAlias = Annotated[str, Parameter(metavar="FILE")]
MaybeFile: TypeAlias = Annotated[str | None, Parameter(metavar="FILE")]

_MAX_NOTE: Final = 4_000_000
"""Bytes of a file with a note or a proof."""


async def read_text(option: str, path: str) -> str:
    """The text of a small file that an option names.

    Raises:
      CommandError: it cannot be read.
    """
    try:
        data = await trio.to_thread.run_sync(_read, path)
    except OSError as exc:
        raise CommandError(f"{option}: {path}: {exc.strerror}") from exc
    return data.decode(errors="replace")


async def read_note(option: str, path: str, verifier: Verifier) -> str:
    """The note in a file that an option names.

    Raises:
      CommandError: it cannot be read, or is no note that is signed by this key.
    """
    note = await read_text(option, path)
    try:
        verifier.verify(note)
    except AuditError as exc:
        raise CommandError(f"{option}: {path}: {exc}") from exc
    return note


def _read(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(_MAX_NOTE)


async def load_verifier(public_key: str) -> Verifier:
    """The key of ``--public-key``.

    Raises:
      AuditError: it cannot be read.
    """
    return await trio.to_thread.run_sync(Verifier.load, public_key)


async def load_commitment_key(public_key: str, commitment_key: str | None) -> CommitmentKey:
    """The key of ``--commitment-key``; by default that beside the public key.

    Raises:
      AuditError: it cannot be read.
    """
    path = public_key.removesuffix(".pub") + ".commitment" if commitment_key is None else commitment_key
    return await trio.to_thread.run_sync(CommitmentKey.load, path)


@attrs.frozen
class Seal:
    """What a log is compared with."""

    checkpoints: str
    verifier: Verifier
    commitment_key: CommitmentKey
    notes: tuple[str, ...]
    pruned_through: int

    def read(self) -> Checkpoints | None:
        """Read the file; None if something is wrong with it, which :meth:`compare` will say. Blocks."""
        try:
            return CheckpointReader(self.checkpoints, self.verifier).read()
        except AuditError:
            return None

    async def compare(
        self,
        store: EventStore | None,
        archive: str | None,
        most_findings: int,
        on_progress: Callable[[int], object],
    ) -> CheckpointVerification:
        """Compare a log with it, or an archive, or both; see :func:`verify_checkpoints`."""
        return await verify_checkpoints(
            store,
            self.checkpoints,
            self.verifier,
            self.commitment_key,
            archived=None if archive is None else read_archive(archive),
            notes=self.notes,
            pruned_through=self.pruned_through,
            most_findings=most_findings,
            on_progress=on_progress,
        )


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class CheckpointOptions:
    """Which checkpoints to compare a log with."""

    checkpoints: MaybeFile = None
    """Compare the events with the checkpoints in this file, which `seal` or a program has written."""

    public_key: MaybeFile = None
    """The public key of the checkpoints, as `keygen` writes it."""

    commitment_key: MaybeFile = None
    """The commitment key; by default the file `KEY.commitment` beside `KEY.pub`."""

    note: Annotated[
        tuple[str, ...],
        Parameter(metavar="FILE", negative=(), show_default=False, consume_multiple=False),
    ] = ()
    """A note that was kept elsewhere, which the log must agree with; repeat the option for several."""

    pruned_through: Count = 0
    """Events up to this seq were pruned on purpose: begin after the first checkpoint that covers them."""

    async def load(self) -> Seal | None:
        """Read the keys and notes; None if no checkpoints are named. A checkpoint of Trio.

        Raises:
          CommandError: an option is missing, or a note cannot be read.
          AuditError: a key cannot be read.
        """
        if self.checkpoints is None:
            if self.public_key or self.commitment_key or self.note or self.pruned_through:
                raise CommandError(
                    "--checkpoints: name the file that the other options are about", USAGE_STATUS
                )
            await trio.lowlevel.checkpoint()
            return None
        if self.public_key is None:
            raise CommandError("--checkpoints: --public-key is missing", USAGE_STATUS)
        verifier = await load_verifier(self.public_key)
        key = await load_commitment_key(self.public_key, self.commitment_key)
        notes = [await read_note("--note", path, verifier) for path in self.note]
        return Seal(self.checkpoints, verifier, key, tuple(notes), self.pruned_through)
