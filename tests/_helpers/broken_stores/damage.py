"""Stores that break S16: they declare that they detect damage."""

from __future__ import annotations

import json
import os
import time

import attrs

from tests._helpers.broken_stores._broken import Broken, file
from tests._helpers.correct_stores import CorrectCheckedStore, Held
from trio_eventlog import StoreUnusable

# --- S16: damage is told --------------------------------------------------------------------------


class TakesAnyContent(CorrectCheckedStore):
    """What is still JSON is taken for what was stored."""

    def _compare(self, found: bytes, noted: bytes) -> None:
        pass

    def _hold_text(self, text: bytes) -> Held:
        try:
            return super()._hold_text(text)
        except (ValueError, TypeError, KeyError):
            raise StoreUnusable("damaged") from None


class Crashes(CorrectCheckedStore):
    def _compare(self, found: bytes, noted: bytes) -> None:
        if found != noted:
            os.abort()


class Hangs(CorrectCheckedStore):
    def _compare(self, found: bytes, noted: bytes) -> None:
        while found != noted:
            time.sleep(1)


class RaisesErrorOfItsDriver(CorrectCheckedStore):
    def _compare(self, found: bytes, noted: bytes) -> None:
        if found != noted:
            json.loads("{")


class BeginsAnew(CorrectCheckedStore):
    """What is too short for it, it takes for a log that was never written."""

    def _compare(self, found: bytes, noted: bytes) -> None:
        if self.path.stat().st_size < 4096:
            self.path.write_bytes(b"")
        else:
            super()._compare(found, noted)


class SkipsWhatIsDamaged(CorrectCheckedStore):
    """A batch that it cannot read is left out, and nobody is told."""

    def _compare(self, found: bytes, noted: bytes) -> None:
        if found != noted:
            lines = self.path.read_bytes().splitlines(keepends=True)
            self.path.write_bytes(b"".join(lines[:1]))


BROKEN: tuple[Broken, ...] = (
    file("S16", "damaged content is returned", TakesAnyContent),
    file("S16", "crashes on damage", Crashes),
    attrs.evolve(file("S16", "hangs on damage", Hangs), is_slow=True),
    file("S16", "an error of the driver tells of damage", RaisesErrorOfItsDriver),
    file("S16", "begins anew after a cut", BeginsAnew),
    file("S16", "skips what is damaged", SkipsWhatIsDamaged),
)
