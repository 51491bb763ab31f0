"""The Merkle tree of RFC 6962, in the memory of its frontier. Pure.

A tree of n leaves is kept as the roots of the perfect subtrees that n is made of, the largest first: one for
each 1 in n as a binary number. That is its *frontier*. It is enough to append, and for the root.

A proof is the list of hashes beside the way from a node to the root, from the bottom up. It too is made while
leaves are appended: a node of the frontier is marked, and what it is combined with is noted down. So a proof
needs no more memory than the tree, and begins at the frontier of any tree that the node is not yet in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32

EMPTY_ROOT: Final = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of the node above two others."""
    return sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """A tree that grows.

    Args:
      size: leaves that it has already.
      frontier: its frontier, the hash of the largest subtree first.

    Raises:
      ValueError: the frontier is not one of a tree of that size.
    """

    def __init__(self, size: int = 0, frontier: Iterable[bytes] = ()) -> None:
        self._size = size
        self._frontier = list(frontier)
        if size < 0 or len(self._frontier) != size.bit_count():
            raise ValueError(f"a tree of size {size} has no frontier of {len(self._frontier)} hashes")
        if any(len(item) != HASH_BYTES for item in self._frontier):
            raise ValueError(f"frontier: a hash has not {HASH_BYTES} bytes")

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    @property
    def frontier(self) -> tuple[bytes, ...]:
        """The roots of the perfect subtrees, the largest first."""
        return tuple(self._frontier)

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaves, given as their hashes."""
        nodes = list(leaves)
        size, level = self._size, 0
        self._size += len(nodes)
        smaller: list[bytes] = []
        # Level by level, which is faster than leaf by leaf.
        while nodes:
            if size >> level & 1:
                # It was without a neighbour until now.
                nodes.insert(0, self._frontier.pop())
            if len(nodes) & 1:
                smaller.append(nodes.pop())
            pairs = iter(nodes)
            nodes = [
                sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)
            ]
            level += 1
        self._frontier += reversed(smaller)

    def root(self) -> bytes:
        """The hash of the whole tree."""
        if not self._frontier:
            return EMPTY_ROOT
        root = self._frontier[-1]
        for left in reversed(self._frontier[:-1]):
            root = node_hash(left, root)
        return root

    def copy(self) -> MerkleTree:
        """Another tree with the same leaves."""
        return MerkleTree(self._size, self._frontier)


class ProofTree(MerkleTree):
    """A tree that notes down the way from one of its nodes to the root."""

    _marked = -1
    """Index of the marked subtree in the frontier, or of the one that it has become a part of."""

    def __init__(self, size: int = 0, frontier: Iterable[bytes] = ()) -> None:
        super().__init__(size, frontier)
        self._path: list[bytes] = []
        self._old_size, self._subtree = 0, b""

    def append_marked(self, leaf: bytes) -> None:
        """Append a leaf, where the way begins."""
        self._path = []
        self._append(leaf, is_on_way=True)

    def mark(self) -> None:
        """Mark the smallest subtree, which has the last leaf. The way begins there.

        Raises:
          ValueError: the tree is empty.
        """
        if not self._frontier:
            raise ValueError("an empty tree has nothing to mark")
        self._marked = len(self._frontier) - 1
        self._path = []
        self._old_size, self._subtree = self._size, self._frontier[-1]

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaves, given as their hashes."""
        for leaf in leaves:
            self._append(leaf)

    def _append(self, carried: bytes, *, is_on_way: bool = False) -> None:
        rest = self._size
        while rest & 1:
            left = self._frontier.pop()
            if is_on_way:
                self._path.append(left)
            elif len(self._frontier) == self._marked:
                self._path.append(carried)
                is_on_way = True
            carried = node_hash(left, carried)
            rest >>= 1
        if is_on_way:
            self._marked = len(self._frontier)
        self._frontier.append(carried)
        self._size += 1

    def path(self) -> tuple[bytes, ...]:
        """The hashes beside the way from the marked subtree to the root, from the bottom up."""
        path = list(self._path)
        last = len(self._frontier) - 1
        if self._marked < last:
            # All subtrees to the right are one node by the time they meet it.
            right = self._frontier[last]
            for left in reversed(self._frontier[self._marked + 1 : last]):
                right = node_hash(left, right)
            path.append(right)
        path.extend(reversed(self._frontier[: self._marked]))
        return tuple(path)

    def consistency(self) -> tuple[bytes, ...]:
        """The proof that the tree as it was when it was marked is the beginning of this one."""
        if self._old_size == self._size:
            return ()
        # Whoever checks it knows the root of the old tree, which is that subtree if it was the only one.
        is_perfect = self._old_size & (self._old_size - 1) == 0
        return self.path() if is_perfect else (self._subtree, *self.path())


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root of a tree with this leaf at an index, from 0; None if the proof has the wrong length."""
    if not 0 <= index < size:
        return None
    place, last, found = index, size - 1, leaf
    for beside in path:
        if last == 0:
            return None
        if place & 1 or place == last:
            found = node_hash(beside, found)
            while not (place & 1 or place == 0):
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, beside)
        place, last = place >> 1, last >> 1
    return found if last == 0 else None


def is_consistent(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]
) -> bool:
    """Whether a proof shows that the old tree is the beginning of the new one."""
    if not 0 <= old_size <= new_size:
        return False
    if old_size == new_size:
        return not path and old_root == new_root
    if old_size == 0:
        return not path and old_root == EMPTY_ROOT
    rest = [old_root, *path] if old_size & (old_size - 1) == 0 else list(path)
    if not rest:
        return False
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = rest[0]
    for beside in rest[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node_hash(beside, old), node_hash(beside, new)
            while not (place & 1 or place == 0):
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, beside)
        place, last = place >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root
