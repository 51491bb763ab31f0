"""Checkpoints of a log that nobody can change afterwards without being noticed.

A Merkle tree (RFC 6962) grows over the durable events of a log, in the order of seq. Now and then its size
and root are signed, as a note in the form of C2SP ``tlog-checkpoint``. A note commits to every event before
it: whoever has an old note, and the public key, finds out if one was changed, removed or inserted since.

Needs the extra ``audit``, for Ed25519.

``_tree``, ``_notes``, ``_leaves``, ``_records``, ``_judge`` and ``_proofs`` are pure; ``_keys``, ``_file``
and ``_covering`` block; ``_work``, ``_recorder``, ``_seal``, ``_sources``, ``_verify`` and ``_prove`` are for
Trio.
"""

from trio_eventlog._util import adopt_public_names as _adopt_public_names
from trio_eventlog.audit._covering import CheckpointReader, Checkpoints
from trio_eventlog.audit._errors import AuditError
from trio_eventlog.audit._judge import CheckpointVerification
from trio_eventlog.audit._keys import CommitmentKey, Signer, Verifier
from trio_eventlog.audit._leaves import commitment_with
from trio_eventlog.audit._notes import Checkpoint
from trio_eventlog.audit._proofs import ConsistencyProof, InclusionProof, parse_proof
from trio_eventlog.audit._prove import prove_consistency, prove_inclusion
from trio_eventlog.audit._recorder import Anchor, record_checkpoints
from trio_eventlog.audit._seal import seal
from trio_eventlog.audit._verify import verify_checkpoints
from trio_eventlog.audit._work import CheckpointRecorder

__all__ = [
    "Anchor",
    "AuditError",
    "Checkpoint",
    "CheckpointReader",
    "CheckpointRecorder",
    "CheckpointVerification",
    "Checkpoints",
    "CommitmentKey",
    "ConsistencyProof",
    "InclusionProof",
    "Signer",
    "Verifier",
    "commitment_with",
    "parse_proof",
    "prove_consistency",
    "prove_inclusion",
    "record_checkpoints",
    "seal",
    "verify_checkpoints",
]

_adopt_public_names(globals())
