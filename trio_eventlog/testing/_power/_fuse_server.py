"""A file system in memory that writes down what is done to it: a process of its own, with a mount point.

It is a program and not imported, and imports nothing of this package, so that it starts quickly. It has to be
another process: a thread that waits for a file with Python's lock in its hands would wait for ever if what
serves the file needed that lock.

The first argument is the mount point. Each directory right below it is watched by itself. Commands come as
lines of JSON on the standard input, each is answered by a line of JSON, and the end of the input ends it.
"""

# ruff: noqa: ARG002 - the kernel tells more than is needed
# Types are checked without pyfuse3 as well:
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import errno
import json
import os
import pickle
import stat
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import pyfuse3  # type: ignore[import-not-found,unused-ignore]  # see above
import trio

_CACHED_SECONDS: Final = 60.0
"""All changes come through the kernel, which knows what it did."""

_BLOCK: Final = 512


class _Watched:
    """A directory that is watched, with everything in it.

    Attributes:
      journal: the operations, each a tuple of its kind and its fields.
      settled: how many of them made what was there at first.
      bytes_left: how much more fits in.
    """

    def __init__(self, failing_syncs: list[int], capacity: int | None) -> None:
        self.journal: list[tuple[Any, ...]] = []
        self.settled = 0
        self.bytes_left = capacity
        self._failing_syncs = frozenset(failing_syncs)
        self._syncs = 0

    def sync(self, done: tuple[Any, ...], failed: tuple[Any, ...] | None) -> None:
        """Note a sync, or let it fail."""
        self._syncs += 1
        if self._syncs in self._failing_syncs:
            if failed is not None:
                self.journal.append(failed)
            raise pyfuse3.FUSEError(errno.EIO)
        self.journal.append(done)

    def take(self, count: int) -> None:
        """Take room for bytes, or give it back."""
        if self.bytes_left is not None:
            if count > self.bytes_left:
                raise pyfuse3.FUSEError(errno.ENOSPC)
            self.bytes_left -= count


class _Node:
    """A file, a directory or a symbolic link."""

    def __init__(self, number: int, mode: int, ctx: Any, watched: _Watched | None) -> None:
        self.number = number
        self.mode = mode
        self.uid: int = os.getuid() if ctx is None else ctx.uid
        self.gid: int = os.getgid() if ctx is None else ctx.gid
        self.watched = watched
        self.data = bytearray()
        self.target = b""
        self.children: dict[bytes, _Node] = {}
        self.links = 1
        # Of directories, which have one name each.
        self.name = b""
        self.parent: _Node | None = None
        self.accessed = self.modified = self.changed = time.time_ns()

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def path_of(self, name: bytes) -> str:
        """The path of a name in this directory, from the directory that is watched."""
        parts = [os.fsdecode(name)] if name else []
        node = self
        while node.parent is not None and node.parent.parent is not None:
            parts.insert(0, os.fsdecode(node.name))
            node = node.parent
        return "/".join(parts)

    def attributes(self) -> Any:
        entry: Any = pyfuse3.EntryAttributes()
        entry.st_ino = self.number
        entry.generation = 0
        entry.entry_timeout = entry.attr_timeout = _CACHED_SECONDS
        entry.st_mode = self.mode
        entry.st_nlink = self.links
        entry.st_uid, entry.st_gid = self.uid, self.gid
        entry.st_rdev = 0
        entry.st_size = len(self.target) if self.target else len(self.data)
        entry.st_blksize = 4096
        entry.st_blocks = (entry.st_size + _BLOCK - 1) // _BLOCK
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = self.accessed, self.modified, self.changed
        return entry

    def touch(self) -> None:
        self.modified = self.changed = time.time_ns()


class _FileSystem(pyfuse3.Operations):  # type: ignore[misc,unused-ignore]  # see above
    """See the module. What kernels ask for is done in one step, so nothing comes in between."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        root = _Node(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o755, None, None)
        self._nodes: dict[int, _Node] = {root.number: root}
        self._root = root
        self._next = root.number + 1
        self._open: dict[int, _Node] = {}
        self._next_handle = 1
        self._watched: dict[str, _Watched] = {}

    # --- commands ---------------------------------------------------------------------------------

    def begin(self, name: str, failing_syncs: list[int], capacity: int | None) -> None:
        """Make a directory that is watched."""
        watched = self._watched[name] = _Watched(failing_syncs, capacity)
        node = self._new(stat.S_IFDIR | 0o777, None, watched)
        self._put(self._root, name.encode(), node)

    def acknowledge(self, name: str, count: int) -> None:
        """Note that something was promised."""
        self._watched[name].journal.append(("Acknowledged", count))

    def settle(self, name: str) -> None:
        """Begin the journal anew, as if everything that is there had been synced."""
        watched = self._watched[name]
        journal: list[tuple[Any, ...]] = []
        watched.journal = journal
        synced: list[tuple[Any, ...]] = []
        for directory in _directories(self._root.children[name.encode()]):
            path = directory.path_of(b"")
            if path:
                journal.append(("DirectoryMade", path))
            synced.append(("DirectorySynced", path))
            for child_name, child in directory.children.items():
                if stat.S_ISREG(child.mode):
                    journal.append(("Named", directory.path_of(child_name), child.number))
                    journal.append(("Written", child.number, 0, bytes(child.data)))
                    synced.append(("Synced", child.number))
        journal.extend(synced)
        watched.settled = len(journal)

    def write_journal(self, name: str, path: str) -> None:
        """Write what was noted into a file."""
        with open(path, "wb") as file:  # noqa: PTH123 - nothing is gained by a Path
            watched = self._watched[name]
            pickle.dump((watched.settled, watched.journal), file)

    def end(self, name: str) -> None:
        """Forget a directory. What somebody still has open is empty from here on."""
        del self._watched[name]
        for directory in _directories(self._root.children.pop(name.encode())):
            for child in directory.children.values():
                child.data = bytearray()

    # --- nodes ------------------------------------------------------------------------------------

    def _new(self, mode: int, ctx: Any, watched: _Watched | None) -> _Node:
        node = self._nodes[self._next] = _Node(self._next, mode, ctx, watched)
        self._next += 1
        return node

    def _put(self, parent: _Node, name: bytes, node: _Node) -> None:
        parent.children[name] = node
        parent.touch()
        if node.is_directory:
            node.parent, node.name = parent, name

    def _make(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> _Node:
        parent = self._nodes[parent_inode]
        if parent.watched is None:
            raise pyfuse3.FUSEError(errno.EACCES)
        if name in parent.children:
            raise pyfuse3.FUSEError(errno.EEXIST)
        node = self._new(mode, ctx, parent.watched)
        self._put(parent, name, node)
        path = parent.path_of(name)
        parent.watched.journal.append(
            ("DirectoryMade", path) if node.is_directory else ("Named", path, node.number)
        )
        return node

    def _drop(self, node: _Node) -> None:
        node.links -= 1
        node.changed = time.time_ns()
        if node.links == 0 and node.watched is not None:
            node.watched.take(-len(node.data))

    def _handle(self, node: _Node) -> int:
        handle = self._next_handle
        self._next_handle += 1
        self._open[handle] = node
        return handle

    # --- what the kernel asks for: names ----------------------------------------------------------

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        parent = self._nodes[parent_inode]
        if name == b".":
            return parent.attributes()
        if name == b"..":
            return (parent.parent or parent).attributes()
        if name not in parent.children:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return parent.children[name].attributes()

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> Any:
        return self._make(parent_inode, name, stat.S_IFDIR | stat.S_IMODE(mode), ctx).attributes()

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any) -> Any:
        node = self._make(parent_inode, name, stat.S_IFLNK | 0o777, ctx)
        node.target = target
        return node.attributes()

    async def readlink(self, inode: int, ctx: Any) -> bytes:
        return self._nodes[inode].target

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any) -> Any:
        node, parent = self._nodes[inode], self._nodes[new_parent_inode]
        if new_name in parent.children:
            raise pyfuse3.FUSEError(errno.EEXIST)
        node.links += 1
        self._put(parent, new_name, node)
        assert parent.watched is not None
        parent.watched.journal.append(("Named", parent.path_of(new_name), node.number))
        return node.attributes()

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        self._remove(parent_inode, name)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        self._remove(parent_inode, name)

    def _remove(self, parent_inode: int, name: bytes) -> None:
        parent = self._nodes[parent_inode]
        node = parent.children.get(name)
        if node is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        if node.children:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        del parent.children[name]
        parent.touch()
        self._drop(node)
        if parent.watched is not None:
            parent.watched.journal.append(("Removed", parent.path_of(name)))

    async def rename(  # noqa: PLR0917 - pyfuse3's
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Any,
    ) -> None:
        old, new = self._nodes[parent_inode_old], self._nodes[parent_inode_new]
        if flags:
            raise pyfuse3.FUSEError(errno.EINVAL)
        if old.watched is not new.watched or old.watched is None:
            raise pyfuse3.FUSEError(errno.EXDEV)
        node, replaced = old.children[name_old], new.children.get(name_new)
        if replaced is node:
            return
        if replaced is not None:
            if replaced.children:
                raise pyfuse3.FUSEError(errno.ENOTEMPTY)
            self._drop(replaced)
        operation = ("Renamed", old.path_of(name_old), new.path_of(name_new))
        del old.children[name_old]
        old.touch()
        self._put(new, name_new, node)
        old.watched.journal.append(operation)

    # --- contents ---------------------------------------------------------------------------------

    async def getattr(self, inode: int, ctx: Any) -> Any:
        return self._nodes[inode].attributes()

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
        node = self._nodes[inode]
        if fields.update_size:
            self._resize(node, attr.st_size)
        if fields.update_mode:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(attr.st_mode)
        if fields.update_uid:
            node.uid = attr.st_uid
        if fields.update_gid:
            node.gid = attr.st_gid
        if fields.update_atime:
            node.accessed = attr.st_atime_ns
        if fields.update_mtime:
            node.modified = attr.st_mtime_ns
        node.changed = time.time_ns()
        return node.attributes()

    def _resize(self, node: _Node, size: int) -> None:
        assert node.watched is not None
        node.watched.take(size - len(node.data))
        if size < len(node.data):
            del node.data[size:]
        else:
            node.data.extend(bytes(size - len(node.data)))
        node.touch()
        node.watched.journal.append(("Resized", node.number, size))

    async def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        node = self._make(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode), ctx)
        return pyfuse3.FileInfo(fh=self._handle(node)), node.attributes()

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        return self._make(parent_inode, name, mode, ctx).attributes()

    async def open(self, inode: int, flags: int, ctx: Any) -> Any:
        return pyfuse3.FileInfo(fh=self._handle(self._nodes[inode]), keep_cache=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return bytes(self._open[fh].data[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        node = self._open[fh]
        assert node.watched is not None
        node.watched.take(max(0, off + len(buf) - len(node.data)))
        if len(node.data) < off:
            node.data.extend(bytes(off - len(node.data)))
        node.data[off : off + len(buf)] = buf
        node.touch()
        node.watched.journal.append(("Written", node.number, off, bytes(buf)))
        return len(buf)

    async def fsync(self, fh: int, datasync: bool) -> None:
        # Also comes after each write to a file that was opened with O_SYNC or O_DSYNC.
        node = self._open[fh]
        assert node.watched is not None
        node.watched.sync(("Synced", node.number), ("SyncFailed", node.number))

    async def flush(self, fh: int) -> None:
        pass

    async def release(self, fh: int) -> None:
        del self._open[fh]

    # --- directories ------------------------------------------------------------------------------

    async def opendir(self, inode: int, ctx: Any) -> int:
        return self._handle(self._nodes[inode])

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        # Ascending, so that one that was removed meanwhile does not hide another.
        children = sorted(self._open[fh].children.items(), key=lambda item: item[1].number)
        for name, node in children:
            if node.number > start_id and not pyfuse3.readdir_reply(
                token, name, node.attributes(), node.number
            ):
                return

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        node = self._open[fh]
        if node.watched is not None:
            node.watched.sync(("DirectorySynced", node.path_of(b"")), None)

    async def releasedir(self, fh: int) -> None:
        del self._open[fh]

    async def statfs(self, ctx: Any) -> Any:
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = 4096
        found.f_blocks = found.f_bfree = found.f_bavail = 2**24
        found.f_files = found.f_ffree = found.f_favail = 2**24
        found.f_namemax = 255
        return found

    async def forget(self, inode_list: Any) -> None:
        for inode, _ in inode_list:
            node = self._nodes.get(inode)
            if node is not None and node.links <= 0:
                del self._nodes[inode]


def _directories(node: _Node) -> Iterator[_Node]:
    yield node
    for child in node.children.values():
        if child.is_directory:
            yield from _directories(child)


async def _serve(files: _FileSystem) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        _answer("mounted")
        await _obey(files)
        nursery.cancel_scope.cancel()


async def _obey(files: _FileSystem) -> None:
    received = bytearray()
    async with trio.lowlevel.FdStream(os.dup(0)) as commands:
        while data := await commands.receive_some():
            received += data
            *lines, rest = received.split(b"\n")
            received = bytearray(rest)
            for line in lines:
                name, *arguments = json.loads(line)
                getattr(files, name)(*arguments)
                _answer("done")


def _answer(text: str) -> None:
    os.write(1, f"{json.dumps(text)}\n".encode())


def main() -> None:
    """Mount, serve, unmount."""
    files = _FileSystem()
    options = {*pyfuse3.default_options, "fsname=trio_eventlog.testing", "allow_other"}
    pyfuse3.init(files, sys.argv[1], options)
    try:
        trio.run(_serve, files)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
