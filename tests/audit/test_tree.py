"""The Merkle tree, against RFC 6962 word by word, and the vectors of its reference implementation."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.audit import naive_consistency, naive_inclusion, naive_root
from trio_eventlog.audit._tree import (
    MerkleTree,
    ProofTree,
    is_consistent,
    leaf_hash,
    root_from_inclusion,
)

# Of the certificate-transparency project, for trees of the first leaves.
DATA = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
DATA.append(bytes.fromhex("606162636465666768696a6b6c6d6e6f"))
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaves_of(count):
    return [hashlib.sha256(b"\0%d" % number).digest() for number in range(count)]


def grown(leaves):
    tree = MerkleTree()
    tree.extend(leaves)
    return tree


def test_the_vectors_of_the_reference_implementation():
    for size, root in enumerate(ROOTS):
        assert grown(map(leaf_hash, DATA[:size])).root().hex() == root


@given(st.lists(st.integers(0, 9), max_size=12))
def test_a_tree_does_not_depend_on_how_it_was_grown(parts):
    """Nor on whether it went on from its frontier in between."""
    leaves = leaves_of(sum(parts))
    tree = MerkleTree()
    start = 0
    for part in parts:
        tree = MerkleTree(tree.size, tree.frontier)
        tree.extend(leaves[start : start + part])
        start += part
    assert tree.size == len(leaves)
    assert tree.root() == naive_root(leaves)
    assert tree.frontier == grown(leaves).frontier
    assert tree.copy().root() == tree.root()


def inclusion(leaves, index, start=0):
    tree = ProofTree(start, grown(leaves[:start]).frontier)
    tree.extend(leaves[start:index])
    tree.append_marked(leaves[index])
    tree.extend(leaves[index + 1 :])
    assert tree.root() == naive_root(leaves)
    return tree.path()


def consistency(leaves, size, start=0):
    tree = ProofTree(start, grown(leaves[:start]).frontier)
    tree.extend(leaves[start:size])
    tree.mark()
    tree.extend(leaves[size:])
    return tree.consistency()


SIZES = st.integers(1, 70).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size)))


@given(SIZES, st.data())
def test_inclusion(sizes, data):
    size, place = sizes
    leaves, index = leaves_of(size), place - 1
    path = inclusion(leaves, index, data.draw(st.integers(0, index)))

    assert list(path) == naive_inclusion(index, leaves)
    assert root_from_inclusion(leaves[index], index, size, path) == naive_root(leaves)


@given(SIZES, st.data())
def test_an_inclusion_proof_holds_for_nothing_else(sizes, data):
    size, place = sizes
    leaves, index = leaves_of(size), place - 1
    path = list(inclusion(leaves, index))
    root = naive_root(leaves)

    assert root_from_inclusion(b"x" * 32, index, size, path) != root
    other = data.draw(st.integers(-2, size + 2).filter(lambda other: other != index))
    assert root_from_inclusion(leaves[index], other, size, path) != root
    assert root_from_inclusion(leaves[index], index, size, [*path, root]) != root
    if path:
        assert root_from_inclusion(leaves[index], index, size, path[:-1]) != root
        path[data.draw(st.integers(0, len(path) - 1))] = b"x" * 32
        assert root_from_inclusion(leaves[index], index, size, path) != root


@given(SIZES, st.data())
def test_consistency(sizes, data):
    size, old = sizes
    leaves = leaves_of(size)
    path = consistency(leaves, old, data.draw(st.integers(0, old - 1)))
    roots = naive_root(leaves[:old]), naive_root(leaves)

    assert list(path) == naive_consistency(old, leaves)
    assert is_consistent(old, roots[0], size, roots[1], path)


@given(SIZES, st.data())
def test_a_consistency_proof_holds_for_nothing_else(sizes, data):
    size, old = sizes
    leaves = leaves_of(size)
    path = list(consistency(leaves, old))
    roots = naive_root(leaves[:old]), naive_root(leaves)
    changed = data.draw(st.integers(0, old - 1))
    forged = [*leaves[:changed], b"x" * 32, *leaves[changed + 1 :]]

    assert not is_consistent(old, naive_root(forged[:old]), size, roots[1], path)
    assert not is_consistent(old, roots[0], size, naive_root(forged), path)
    assert not is_consistent(old, roots[0], size, naive_root(forged), consistency(forged, old))
    assert not is_consistent(old, roots[0], size, roots[1], [*path, b"x" * 32])
    if path:
        assert not is_consistent(old, roots[0], size, roots[1], path[1:])
    assert not is_consistent(size + 1, roots[0], size, roots[1], path)


def test_the_empty_tree_is_the_beginning_of_every_tree():
    empty = MerkleTree().root()

    assert is_consistent(0, empty, 3, naive_root(leaves_of(3)), [])
    assert not is_consistent(0, b"x" * 32, 3, naive_root(leaves_of(3)), [])
    assert not is_consistent(0, empty, 3, naive_root(leaves_of(3)), [empty])


@pytest.mark.parametrize(
    ("size", "frontier"), [(1, []), (3, [b"x" * 32]), (-1, [b"x" * 32]), (1, [b"x" * 31])]
)
def test_a_frontier_that_is_none(size, frontier):
    with pytest.raises(ValueError):
        MerkleTree(size, frontier)


def test_there_is_nothing_to_mark_in_an_empty_tree():
    with pytest.raises(ValueError, match="nothing to mark"):
        ProofTree().mark()
