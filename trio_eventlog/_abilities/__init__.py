"""Abilities of stores that ``trio_eventlog.abc`` makes public."""
