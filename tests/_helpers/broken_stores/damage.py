"""Stores that break S16: they declare that they detect damage."""

from __future__ import annotations

import json
import os
import time

import attrs

from tests._helpers.broken_stores._broken import Broken, file
from tests._helpers.correct_stores import CorrectCheckedStore, Held, open_checked
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


class EmptyIsNew(CorrectCheckedStore):
    """A log whose file is empty is taken for a new one, whatever its other file says."""

    def _compare(self, found: bytes, noted: bytes) -> None:
        if self.path.stat().st_size:
            super()._compare(found, noted)


class TellsOnce(CorrectCheckedStore):
    """What says that something is wrong is gone when it was told."""

    def _compare(self, found: bytes, noted: bytes) -> None:
        if found != noted:
            self.end.unlink()
            raise StoreUnusable("damaged")


def _checked(clause: str, name: str, cls: type[CorrectCheckedStore]) -> Broken:
    return attrs.evolve(file(clause, name, cls), correct=open_checked)


BROKEN: tuple[Broken, ...] = (
    _checked("S16", "damaged content is returned", TakesAnyContent),
    _checked("S16", "crashes on damage", Crashes),
    attrs.evolve(_checked("S16", "hangs on damage", Hangs), is_slow=True),
    _checked("S16", "an error of the driver tells of damage", RaisesErrorOfItsDriver),
    _checked("S16", "begins anew after a cut", BeginsAnew),
    _checked("S16", "skips what is damaged", SkipsWhatIsDamaged),
    _checked("S16", "an empty file is a new log", EmptyIsNew),
    _checked("S16", "tells of damage once", TellsOnce),
)
