"""Events as objects of a program's own classes, checked on the way in and on the way out."""

from trio_eventlog._model._event_types import EventTypes, make_event_converter
from trio_eventlog._util import adopt_public_names as _adopt_public_names

__all__ = ["EventTypes", "make_event_converter"]

_adopt_public_names(globals())
