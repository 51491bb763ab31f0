"""The clauses of the store contract, a sentence each, as reports quote them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

CLAUSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "S1": "Appending an event again changes nothing: the first write of an id wins.",
        "S2": "seqs are 1 to 2**63 - 1, gaps are legal, and batches in any order of seq are stored.",
        "S3": "A new event on a seq that is taken raises SequenceConflict, and nothing is stored.",
        "S4": "A batch is all or nothing, for readers and after failures, and the store works on.",
        "S5": "Results pass all filters, ascend by seq, and only then are limited.",
        "S6": "Strings compare exactly.",
        "S7": "What is read equals what was written, in value and type.",
        "S8": "Given and returned objects are not shared with the store.",
        "S9": "last_seq is the highest seq ever stored, 0 before the first.",
        "S10": "What append_batch has returned from is read by the next query and kept.",
        "S11": "Every method is a checkpoint, heeds cancellation and does not block the event loop.",
        "S12": "Errors are those of trio_eventlog, and say whether to try again.",
        "S13": "A log has one appender at a time; the next is refused with LogBusy.",
        "S14": "Ids and seqs belong to one log.",
        "S15": "Leaving the store frees everything, however it is left.",
    }
)
"""The clauses S1 to S15 in order, each with its sentence. The contract itself is :class:`EventStore`."""
