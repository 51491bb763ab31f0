"""Which sockets are open."""

from contextlib import suppress
from pathlib import Path


def sockets():
    """How many this process has open."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += str(descriptor.readlink()).startswith("socket:")
    return found
