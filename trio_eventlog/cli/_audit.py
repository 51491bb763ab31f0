"""``trio-eventlog keygen``, ``seal``, ``prove`` and ``check-proof``: checkpoints, and proofs by them."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import trio
from cyclopts import Parameter
from cyclopts.validators import Number as InRange

from trio_eventlog import EventStore
from trio_eventlog.audit import (
    AuditError,
    ConsistencyProof,
    InclusionProof,
    Signer,
    Verifier,
    parse_proof,
    prove_consistency,
    prove_inclusion,
)
from trio_eventlog.audit import (
    seal as seal_log,
)
from trio_eventlog.cli._audit_options import (
    KeyFile,
    MaybeFile,
    load_commitment_key,
    load_verifier,
    read_note,
    read_text,
)
from trio_eventlog.cli._options import USAGE_STATUS, Count, StoreUrl, opened_store
from trio_eventlog.cli._running import progress_bar
from trio_eventlog.cli._terminal import (
    CommandError,
    counted,
    error_console,
    is_terminal,
    time_text,
    visible,
    visible_json,
    write,
    write_summary,
)

KEYGEN_EXAMPLES: Final = """
trio-eventlog keygen audit.key
"""

SEAL_EXAMPLES: Final = """
trio-eventlog seal --store sqlite:events.db --key audit.key --checkpoints events.checkpoints
"""

PROVE_EXAMPLES: Final = """
trio-eventlog prove --store sqlite:e.db --checkpoints e.seal --public-key key.pub --id e-1 > e-1.proof
trio-eventlog prove --store sqlite:e.db --checkpoints e.seal --public-key key.pub --old-note may.note
"""

CHECK_PROOF_EXAMPLES: Final = """
trio-eventlog check-proof e-1.proof --public-key audit.key.pub
"""

# --- keygen -----------------------------------------------------------------------------------------


async def keygen(key: Annotated[str, Parameter(metavar="KEY")]) -> int:
    """Make keys for checkpoints, in new files.

    `KEY` is the private key, which signs. `KEY.pub` is the public key, for everybody. `KEY.commitment` is the
    key that payloads are sealed with: whoever is to verify a log needs it, too.

    Args:
      key: The file of the private key.
    """
    signer = Signer.generate()
    await trio.to_thread.run_sync(signer.save, key)
    written = await write_summary(f"{key}, {key}.pub and {key}.commitment written")
    return 0 if written else 1


# --- seal -------------------------------------------------------------------------------------------


async def seal(
    *,
    store: StoreUrl,
    key: KeyFile,
    checkpoints: KeyFile,
    every: Annotated[Count, Parameter(validator=InRange(gte=1))] = 10_000,
) -> int:
    """Seal a log at rest: append signed checkpoints to a file, from where it ends.

    No program may have the log open for appending.

    Args:
      store: The log.
      key: The private key, as `keygen` writes it.
      checkpoints: The file of checkpoints; created if it does not exist.
      every: Make a checkpoint after every N events, and after the last one.
    """
    signer = await trio.to_thread.run_sync(Signer.load, key)
    # A log that does not exist would be created by what comes next.
    async with opened_store(store, read_only=True):
        pass
    async with opened_store(store) as opened:
        return await seal_store(opened, signer, checkpoints, every)


async def seal_store(store: EventStore, signer: Signer, checkpoints: str, every: int) -> int:
    """Seal a log; return the exit status.

    Raises:
      StoreError: the store failed.
      AuditError: the file cannot be used, or does not belong to the log.
    """
    seen = 0

    def note(seq: int) -> None:
        nonlocal seen
        seen = seq

    last_seq = await store.last_seq()
    async with progress_bar(error_console(), last_seq or None, lambda: (seen, f"seq {seen:,}")):
        try:
            recorder = await seal_log(store, signer, checkpoints, every_events=every, on_progress=note)
        except ValueError as exc:
            raise CommandError(f"--store: {exc}") from exc
    size = 0 if recorder.last is None else recorder.last.size
    words = f"{counted(size, 'event')} sealed; up to seq {recorder.sealed_seq}"
    return 0 if await write_summary(words) else 1


# --- prove ------------------------------------------------------------------------------------------


async def prove(
    *,
    store: StoreUrl,
    checkpoints: KeyFile,
    public_key: KeyFile,
    commitment_key: MaybeFile = None,
    event_id: Annotated[str | None, Parameter(name="--id", metavar="ID")] = None,
    old_note: MaybeFile = None,
) -> int:
    """Print a proof that an event is in a log, or that the log continues an older note.

    Anyone with the public key can check it with `check-proof`, without the log. The proof of an event has the
    event in it, and lets its payload be checked, but no other.

    Args:
      store: The log.
      checkpoints: The file of checkpoints.
      public_key: The public key, as `keygen` writes it.
      commitment_key: The commitment key; by default the file `KEY.commitment` beside `KEY.pub`.
      event_id: Prove that the event with this id is in the log.
      old_note: Prove that the last checkpoint continues the note in this file.
    """
    if (event_id is None) == (old_note is None):
        raise CommandError("prove: give either --id or --old-note", USAGE_STATUS)
    verifier = await load_verifier(public_key)
    key = await load_commitment_key(public_key, commitment_key)
    proof: InclusionProof | ConsistencyProof
    async with opened_store(store, read_only=True) as opened:
        if event_id is not None:
            proof = await prove_inclusion(opened, checkpoints, verifier, key, event_id)
        else:
            note = await read_note("--old-note", old_note or "", verifier)
            proof = await prove_consistency(opened, checkpoints, verifier, key, note)
    line = proof.to_json()
    await write(visible_json(line.decode().rstrip("\n")) + "\n" if is_terminal(sys.stdout) else line)
    return 0


# --- check-proof --------------------------------------------------------------------------------------


async def check_proof(
    file: Annotated[str, Parameter(metavar="FILE")], /, *, public_key: KeyFile, note: MaybeFile = None
) -> int:
    """Check a proof that `prove` has printed, without the log. The exit status is 1 if it proves nothing.

    Args:
      file: The proof.
      public_key: The public key of whoever keeps the log.
      note: The proof must be about the note in this file, which you have kept.
    """
    verifier = await load_verifier(public_key)
    text = await read_text("check-proof", file)
    try:
        proof = parse_proof(text.encode())
    except AuditError as exc:
        raise AuditError(f"{file}: {exc}") from exc
    words, notes = _checked(proof, verifier)
    if note is not None:
        kept = verifier.verify(await read_note("--note", note, verifier))
        if kept not in notes:
            raise AuditError(f"{note}: the proof is not about this note of {counted(kept.size, 'event')}")
    await write(f"{words}\n")
    return 0


def _checked(proof: InclusionProof | ConsistencyProof, verifier: Verifier) -> tuple[str, tuple[object, ...]]:
    if isinstance(proof, ConsistencyProof):
        old, new = proof.check(verifier)
        words = (
            f"the note of {counted(new.size, 'event')} of log {new.origin} continues that of"
            f" {counted(old.size, 'event')}"
        )
        return words, (old, new)
    checkpoint = proof.check(verifier)
    event = proof.event
    words = (
        f"event {visible(event.id)}, seq {event.seq}, {time_text(event.timestamp_ms)}, is among the first"
        f" {counted(checkpoint.size, 'event')} of log {checkpoint.origin}"
    )
    return words, (checkpoint,)
