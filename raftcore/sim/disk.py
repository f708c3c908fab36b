"""One node's disk, simulated at the level of bytes: what a crash leaves of it is drawn from the seed.

Rules
1. What is written is in the *cache*: every reader sees it at once. `File.sync` makes a file's bytes durable,
   `Disk.sync_directory` the names that were created, renamed and removed. As POSIX has it, neither does both.
2. What a call in a thread does is *in flight* from `begin_call` until `Call.finish`. A crash finds it at a drawn
   position in its sequence of operations: what lies behind never happened, and a sync before it did.
3. A sync covers what the same call did before it, and what finished calls did. Another call that is in flight may have
   come too late for it.
4. When the power is lost, any part of what is in the cache survives: a write whole, torn at any byte, with zeroes or
   garbage behind the tear, or not at all, one independently of the other; a change of names or not, but none without
   the earlier ones of the same names. What is durable stays. When only the process is killed, the cache stays too,
   and is as little durable as before.
5. After a sync of a file has failed, what it was to make durable stays in the cache, and no later sync covers it: the
   kernel takes those pages for clean. Only writing the same bytes anew helps. Names are kept in the file system's
   journal: a later `sync_directory` covers them.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    import random

SECTOR: Final = 512
"""Bytes that a disk writes at once: no further than to the end of one does the garbage behind a torn write reach."""

_CACHED: Final = 0
_DURABLE: Final = 1
_UNCOVERED: Final = 2  # a sync of it has failed
_UNDONE: Final = 3  # the crash came before it


class _Write:
    """`data` at `offset` of a file; without data the file is cut, or extended, to end there."""

    __slots__ = ("call", "data", "offset", "state")

    def __init__(self, call: Call | None, offset: int, data: bytes | None) -> None:
        self.call = call
        self.offset = offset
        self.data = data
        self.state = _CACHED

    def apply(self, content: bytearray) -> None:
        offset, data = self.offset, self.data
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        if data is None:
            del content[offset:]
        else:
            content[offset : offset + len(data)] = data

    def replaces(self, offset: int) -> bool:
        """Whether nothing of the byte that was there before is left."""
        return self.offset <= offset and (self.data is None or offset < self.offset + len(self.data))


class _Naming:
    """A change of the directory, as a whole: which file each name means from now on, None for none."""

    __slots__ = ("call", "names", "state")

    def __init__(self, call: Call | None, names: dict[str, _Inode | None]) -> None:
        self.call = call
        self.names = names
        self.state = _CACHED

    def apply(self, content: dict[str, _Inode]) -> None:
        for name, inode in self.names.items():
            if inode is None:
                content.pop(name, None)
            else:
                content[name] = inode


_Operation = TypeVar("_Operation", _Write, _Naming)


class _Stored(Generic[_Operation]):
    """Something with a cached and a durable state. `pending`: what makes the one of the other, oldest first."""

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending: list[_Operation] = []

    def settle(self, operation: _Operation) -> None:
        """Carry out an operation on the durable state."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Make the cached state anew, from the durable one and what is pending."""
        raise NotImplementedError

    def covered(self, call: Call | None) -> list[_Operation]:
        """What a sync in `call` makes durable."""
        covered = []
        for operation in self.pending:
            if operation.state != _UNCOVERED:
                other = operation.call
                if other is call or other is None or other.finished:
                    covered.append(operation)
        return covered

    def absorb(self, covered: list[_Operation]) -> None:
        """These are durable: settle them, in order: one behind something that is not durable waits for that."""
        for operation in covered:
            operation.state = _DURABLE
        pending = self.pending
        while pending and pending[0].state == _DURABLE:
            self.settle(pending.pop(0))


class _Inode(_Stored[_Write]):
    """The bytes of a file. `rotten`: the bits that were flipped in the durable ones, and not written over since."""

    __slots__ = ("now", "rotten", "stable")

    def __init__(self) -> None:
        super().__init__()
        self.now = bytearray()
        self.stable = bytearray()
        self.rotten: list[Rot] = []

    def settle(self, operation: _Write) -> None:
        operation.apply(self.stable)
        if self.rotten:
            self.rotten = [rot for rot in self.rotten if not operation.replaces(rot.offset)]

    def refresh(self) -> None:
        self.now = bytearray(self.stable)
        for operation in self.pending:
            operation.apply(self.now)

    def flip(self, offset: int, bit: int) -> None:
        self.stable[offset] ^= 1 << bit
        self.refresh()


class _Directory(_Stored[_Naming]):
    __slots__ = ("now", "stable")

    def __init__(self) -> None:
        super().__init__()
        self.now: dict[str, _Inode] = {}
        self.stable: dict[str, _Inode] = {}

    def settle(self, operation: _Naming) -> None:
        operation.apply(self.stable)

    def refresh(self) -> None:
        self.now = dict(self.stable)
        for operation in self.pending:
            operation.apply(self.now)


class Call:
    """What one call of a plugin did to the disk, in order."""

    __slots__ = ("_in_flight", "finished", "operations")

    def __init__(self, in_flight: dict[Call, None]) -> None:
        self._in_flight = in_flight
        self.operations: list[_Write | _Naming | partial[None]] = []  # a sync is what it leads to
        self.finished = False

    def finish(self) -> None:
        """The call has returned to its caller: its syncs count. After a crash this does nothing."""
        if not self.finished:
            self.finished = True
            del self._in_flight[self]
            for operation in self.operations:
                if type(operation) is partial:
                    operation()
            self.operations.clear()


class Rot:
    """One bit of the durable bytes of a file that has flipped; as a string, which one."""

    __slots__ = ("_bit", "_inode", "_name", "offset")

    def __init__(self, name: str, inode: _Inode, offset: int, bit: int) -> None:
        self.offset = offset
        self._name = name
        self._inode = inode
        self._bit = bit
        inode.flip(offset, bit)
        inode.rotten.append(self)

    def __str__(self) -> str:
        return f"bit {self._bit} of byte {self.offset} of {self._name} has flipped"

    def unrot(self) -> None:
        """Flip it back, unless other bytes have taken its place."""
        if self in self._inode.rotten:
            self._inode.rotten.remove(self)
            self._inode.flip(self.offset, self._bit)


class File:
    """An open file. Raises `OSError` as the operating system does; any use after a crash, or `close`, is one."""

    __slots__ = ("_disk", "_generation", "_inode", "name")

    def __init__(self, disk: Disk, name: str, inode: _Inode) -> None:
        self.name = name
        self._disk = disk
        self._inode = inode
        self._generation = disk._generation

    @property
    def size(self) -> int:
        return len(self._inode.now)

    def append(self, data: bytes) -> None:
        """Write behind the end. Raises `OSError` (ENOSPC) when only a part of it fits, which is then written."""
        self.write_at(len(self._inode.now), data)

    def write_at(self, offset: int, data: bytes) -> None:
        """Write over what is there, and behind the end. Raises as `append` does."""
        disk, inode = self._disk, self._inode
        if self._generation != disk._generation:
            raise self._dead()
        wanted = len(data)
        if disk.free_bytes is not None:
            data = disk._fitting(len(inode.now), offset, data)
        call = disk._call
        operation = _Write(call, offset, bytes(data))
        operation.apply(inode.now)
        inode.pending.append(operation)
        if call is not None:
            call.operations.append(operation)
        if len(data) < wanted:
            disk.counts["full"] += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)

    def read(self, offset: int, size: int) -> bytes:
        """As many bytes as there are. Raises `OSError` (EIO) while the disk can't be read."""
        if self._generation != self._disk._generation:
            raise self._dead()
        if self._disk.read_error:
            self._disk.counts["read errors"] += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), self.name)
        return bytes(self._inode.now[offset : offset + size])

    def truncate(self, size: int) -> None:
        """Make the file end at `size`; what it gains is zeroes."""
        disk, inode = self._disk, self._inode
        if self._generation != disk._generation:
            raise self._dead()
        disk._release(len(inode.now) - size)
        operation = _Write(disk._call, size, None)
        operation.apply(inode.now)
        inode.pending.append(operation)
        if disk._call is not None:
            disk._call.operations.append(operation)

    def sync(self) -> None:
        """Make the bytes durable. Raises `OSError` (EIO) when the simulator says so."""
        disk, inode = self._disk, self._inode
        if self._generation != disk._generation:
            raise self._dead()
        covered = inode.covered(disk._call)
        if disk.fail_next_sync:
            for operation in covered:
                if operation.state == _CACHED:
                    operation.state = _UNCOVERED
            raise disk._failed_sync(self.name)
        disk._sync(inode, covered)

    def close(self) -> None:
        """Any further use is an error. Nothing is synced."""
        self._generation = -1

    def _dead(self) -> OSError:
        return OSError(errno.EBADF, os.strerror(errno.EBADF), self.name)


class Disk:
    """The disk of one node: files by name, in one directory. All chance comes from `rng`.

    The simulator's switches: `fail_next_sync` (the next sync raises EIO, and that one only), `read_error` (reads raise
    EIO as long as it is on), `free_bytes` (how much more fits, None: anything; it follows what is written and removed).
    `counts` says how often each thing has happened.
    """

    def __init__(self, rng: random.Random) -> None:
        self.fail_next_sync = False
        self.read_error = False
        self.free_bytes: int | None = None
        self.counts = dict.fromkeys(
            (
                "crashes",
                "torn writes",
                "dropped writes",
                "dropped names",
                "failed syncs",
                "full",
                "read errors",
                "rotten bits",
            ),
            0,
        )
        self._rng = rng
        self._directory = _Directory()
        self._generation = 0
        self._call: Call | None = None
        self._in_flight: dict[Call, None] = {}

    # -- files --------------------------------------------------------------------------------------------------------

    def open(self, name: str) -> File:
        """Open a file for everything; an empty one is created when there is none."""
        inode = self._directory.now.get(name)
        if inode is None:
            inode = _Inode()
            self._name({name: inode})
        return File(self, name, inode)

    def exists(self, name: str) -> bool:
        return name in self._directory.now

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._directory.now)

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, in place of the file that has it. Raises `OSError` (ENOENT)."""
        inode = self._existing(old)
        replaced = self._directory.now.get(new)
        if replaced is not None and replaced is not inode:
            self._release(len(replaced.now))
        self._name({old: None, new: inode})

    def delete(self, name: str) -> None:
        """Remove a name; who has the file open can still use it. Raises `OSError` (ENOENT)."""
        self._release(len(self._existing(name).now))
        self._name({name: None})

    def sync_directory(self) -> None:
        """Make names durable. Raises `OSError` (EIO) when the simulator says so."""
        if self.fail_next_sync:
            raise self._failed_sync("the directory")
        self._sync(self._directory, self._directory.covered(self._call))

    # -- calls --------------------------------------------------------------------------------------------------------

    def begin_call(self) -> Call:
        """What is done until `end_call` belongs to one call, and is in flight until that is finished."""
        call = self._call = Call(self._in_flight)
        self._in_flight[call] = None
        return call

    def end_call(self) -> None:
        """The method has returned; its latency has not passed yet."""
        self._call = None

    # -- faults -------------------------------------------------------------------------------------------------------

    def crash(self, *, power: bool = True) -> None:
        """The process ends in the middle of its calls and, with `power`, the cache is lost. Open files are dead."""
        self.counts["crashes"] += 1
        before = self._size()
        for call in self._in_flight:
            self._cut(call)
        self._in_flight.clear()
        self._call = None
        self._generation += 1
        directory = self._directory
        named = [inode for naming in directory.pending for inode in naming.names.values() if inode is not None]
        # A dictionary for its order: nothing here may depend on where an object happens to lie in memory.
        inodes = dict.fromkeys([*directory.stable.values(), *named])
        directory.pending = [naming for naming in directory.pending if naming.state != _UNDONE]
        for inode in inodes:
            inode.pending = [write for write in inode.pending if write.state != _UNDONE]
        if power:
            self._lose(self._rng.choice((0.0, 0.5, 0.5, 1.0)))
        directory.refresh()
        for inode in inodes:
            inode.refresh()
        self._release(before - self._size())

    def rot(self) -> Rot | None:
        """Flip one bit of the durable bytes of a file; None when there are none."""
        files = [(name, inode) for name, inode in sorted(self._directory.now.items()) if inode.stable]
        if not files:
            return None
        self.counts["rotten bits"] += 1
        name, inode = self._rng.choice(files)
        return Rot(name, inode, self._rng.randrange(len(inode.stable)), self._rng.randrange(8))

    def _cut(self, call: Call) -> None:
        """Undo what a call did behind the position where the crash found it, which may be in the middle of a write."""
        position = self._rng.randint(0, len(call.operations))
        for at, operation in enumerate(call.operations):
            if isinstance(operation, partial):
                if at < position:
                    operation()
            elif at == position and isinstance(operation, _Write) and operation.data:
                self.counts["torn writes"] += 1
                operation.data = operation.data[: self._rng.randrange(len(operation.data))]
            elif at >= position:
                operation.state = _UNDONE
        call.operations.clear()
        call.finished = True

    def _lose(self, chance: float) -> None:
        """The cache is gone; each pending operation had reached the disk before with that chance, or in part."""
        directory, rng = self._directory, self._rng
        dropped: set[str] = set()
        for naming in directory.pending:
            if naming.state == _DURABLE or (rng.random() < chance and dropped.isdisjoint(naming.names)):
                directory.settle(naming)
            else:
                dropped.update(naming.names)
                self.counts["dropped names"] += 1
        directory.pending = []
        for _, inode in sorted(directory.stable.items()):
            for write in inode.pending:
                if write.state == _DURABLE or rng.random() < chance:
                    inode.settle(write)
                elif not write.data or not chance or rng.random() < 0.5:
                    self.counts["dropped writes"] += 1
                else:
                    self.counts["torn writes"] += 1
                    write.data = self._torn(write.offset, write.data)
                    inode.settle(write)
            inode.pending = []

    def _torn(self, offset: int, data: bytes) -> bytes:
        """A beginning of `data`; sometimes with zeroes or garbage in the rest of its last sector, or of all it has."""
        rng = self._rng
        kept = rng.randrange(len(data))
        if rng.random() < 0.5:
            return data[:kept]
        size = len(data) - kept
        if rng.random() < 0.5:
            size = min(size, SECTOR - (offset + kept) % SECTOR)
        return data[:kept] + (bytes(size) if rng.random() < 0.5 else rng.randbytes(size))

    # -- what the files need ------------------------------------------------------------------------------------------

    def _existing(self, name: str) -> _Inode:
        inode = self._directory.now.get(name)
        if inode is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return inode

    def _name(self, names: dict[str, _Inode | None]) -> None:
        operation = _Naming(self._call, names)
        operation.apply(self._directory.now)
        self._directory.pending.append(operation)
        if self._call is not None:
            self._call.operations.append(operation)

    def _sync(self, stored: _Stored[_Operation], covered: list[_Operation]) -> None:
        if self._call is None:
            stored.absorb(covered)
        else:
            self._call.operations.append(partial(stored.absorb, covered))

    def _failed_sync(self, name: str) -> OSError:
        self.fail_next_sync = False
        self.counts["failed syncs"] += 1
        return OSError(errno.EIO, os.strerror(errno.EIO), name)

    def _fitting(self, size: int, offset: int, data: bytes) -> bytes:
        """The part of `data` for which there is room, in a file of `size` bytes; the room is taken."""
        room = self.free_bytes or 0
        growth = max(0, offset + len(data) - size)
        if growth > room:
            data = data[: max(0, len(data) - (growth - room))]
        self.free_bytes = room - max(0, offset + len(data) - size)
        return data

    def _release(self, size: int) -> None:
        if self.free_bytes is not None:
            self.free_bytes = max(0, self.free_bytes + size)

    def _size(self) -> int:
        return sum(len(inode.now) for inode in self._directory.now.values())
