"""The servers that a connection knows: those it was given, and those it has learnt of. No I/O."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from trio_eventlog.stores.jetstream._access import Server, parse_address

MAX_LEARNT: Final = 64
"""Most servers that are remembered because another one has advertised them."""


@attrs.define(eq=False)
class Servers:
    """Which servers there are, and in which order to try them."""

    given: Sequence[Server]
    _known: list[Server] = attrs.field(init=False)
    """The given ones, then those learnt, the latest last."""
    _silent: set[Server] = attrs.field(factory=set, init=False)
    """Of those learnt, the ones that have not answered since the last connection was made."""
    _left: dict[Server, float] = attrs.field(factory=dict, init=False)
    """When the last connection to a server ended."""
    _malformed: set[str] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self._known = list(self.given)

    def __len__(self) -> int:
        return len(self._known)

    def in_random_order(self) -> list[Server]:
        """All of them, those whose connections ended last at the end.

        In random order otherwise: not all clients of a server that went down must go to the same one.
        """
        shuffled = random.sample(self._known, len(self._known))
        return sorted(shuffled, key=lambda server: self._left.get(server, 0.0))

    def has_not_answered(self, server: Server) -> None:
        """An attempt to connect has failed."""
        if server not in self.given:
            self._silent.add(server)

    def has_answered(self, server: Server, advertised: object) -> list[str]:
        """A connection was made; see also :meth:`learn`.

        The servers that did not answer meanwhile are forgotten, unless the cluster still advertises them.
        """
        self._known = [known for known in self._known if known not in self._silent]
        self._silent.clear()
        return self.learn(server, advertised)

    def was_left(self, server: Server, time: float) -> None:
        """The connection to a server has ended."""
        self._left[server] = time

    def learn(self, teller: Server, advertised: object) -> list[str]:
        """Remember the servers that another one advertises.

        Returns:
          What cannot be parsed, and was not returned before.
        """
        malformed: list[str] = []
        if isinstance(advertised, str):
            advertised = (advertised,)
        for address in advertised if isinstance(advertised, Iterable) else ():
            try:
                server = self._parsed(teller, address)
            except (TypeError, ValueError):
                malformed.append(repr(address)[:100])
                continue
            if server not in self.given:
                if server in self._known:
                    self._known.remove(server)
                self._known.append(server)
        del self._known[len(self.given) : max(len(self.given), len(self._known) - MAX_LEARNT)]
        self._left = {server: time for server, time in self._left.items() if server in self._known}
        news = [address for address in malformed if address not in self._malformed]
        if len(self._malformed) < MAX_LEARNT:
            self._malformed.update(news)
            return news
        return []

    @staticmethod
    def _parsed(teller: Server, address: object) -> Server:
        if not isinstance(address, str):
            raise TypeError("expected a string")
        host, port = parse_address(address)
        # Servers advertise addresses, and certificates have names.
        name = teller.certified or teller.host
        return Server(host, port, name if _is_address(host) and not _is_address(name) else None)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
