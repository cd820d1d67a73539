"""Read a TensorFlow V2 checkpoint without TensorFlow.

A checkpoint is two files. The `.index` is an uncompressed sorted string table in the LevelDB format. It maps each
tensor's name to a `BundleEntryProto`, a protobuf message with type, shape, offset, size and checksum; the empty name
maps to the header. The `.data-00000-of-00001` holds the tensors' little-endian bytes. Every block of the table and
every tensor has a CRC-32C, and all are checked, so that damage is an error and never a silently wrong weight.

Source: TensorFlow's `tensor_bundle.proto` and LevelDB's `table_format.md`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from musictagger.errors import ModelError

_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57
_BLOCK_TRAILER_BYTES = 5  # compression type, then the masked CRC of block and type
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 19: "<f2"}


class _DamagedError(Exception):
    """The bytes violate the format. `read_checkpoint` raises it as a ModelError."""


def read_checkpoint(index: bytes, data: bytes) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a one-shard checkpoint, by name, from the bytes of its two files.

    Raises ModelError where the bytes are truncated, damaged or of another format, or use a feature that no published
    model needs: several shards, partitioned or string tensors.
    """
    try:
        entries = _table(index)
        if not entries or entries[0][0] != b"":
            raise _DamagedError("the header is missing")
        _check_header(_Message(entries[0][1]))
        tensors = [(name.decode(), _Message(value)) for name, value in entries[1:]]
        if sum(entry.number(5) for _, entry in tensors) > len(data):
            raise _DamagedError("the data file is truncated, or its tensors overlap")
        return {name: _tensor(entry, data) for name, entry in tensors}
    except (_DamagedError, ValueError, OverflowError) as error:  # the latter two from invalid names and shapes
        raise ModelError(f"not a readable TensorFlow checkpoint: {error}") from error


def _table(index: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values of the whole table, in order."""
    footer = index[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise _DamagedError("the index has no footer; it is truncated or of another format")
    handles = _Reader(footer)
    handles.varint(), handles.varint()  # offset and size of the (empty) meta index
    root = _block(index, handles.varint(), handles.varint())
    blocks = (_Reader(handle) for _, handle in _entries(root))
    return [entry for reader in blocks for entry in _entries(_block(index, reader.varint(), reader.varint()))]


def _block(index: bytes, offset: int, size: int) -> bytes:
    """The entries of one block, after a check of its checksum and without its restart points."""
    stored = index[offset : offset + size + _BLOCK_TRAILER_BYTES]
    if len(stored) < size + _BLOCK_TRAILER_BYTES or size < 4:
        raise _DamagedError("the index is truncated")
    if masked_crc32c(stored[: size + 1]) != int.from_bytes(stored[size + 1 :], "little"):
        raise _DamagedError("the index is damaged: a checksum differs")
    if stored[size] != 0:
        raise _DamagedError("the index is compressed")
    restarts = int.from_bytes(stored[size - 4 : size], "little")
    end = size - 4 - 4 * restarts
    if end < 0:
        raise _DamagedError("the index has a block of impossible size")
    return stored[:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each entry. A key is stored as a suffix to a prefix of the key before it."""
    reader, key = _Reader(block), b""
    while not reader.at_end:
        shared, own, value = reader.varint(), reader.varint(), reader.varint()
        if shared > len(key):
            raise _DamagedError("the index has an impossible key")
        key = key[:shared] + reader.take(own)
        yield key, reader.take(value)


class _Reader:
    """Bytes read from front to back."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._data)

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise _DamagedError("a length points past the end")
        self._at += count
        return taken

    def varint(self) -> int:
        """A base-128 integer of at most 64 bits, lowest seven bits first."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise _DamagedError("a number has no end")


class _Message:
    """A protobuf message: by field number its numbers, and its byte strings in their order."""

    def __init__(self, data: bytes) -> None:
        self._numbers: dict[int, int] = {}
        self._strings: dict[int, list[bytes]] = {}
        reader = _Reader(data)
        while not reader.at_end:
            field, wire = divmod(reader.varint(), 8)
            match wire:
                case 0:
                    self._numbers[field] = reader.varint()
                case 2:
                    self._strings.setdefault(field, []).append(reader.take(reader.varint()))
                case 1 | 5:
                    self._numbers[field] = int.from_bytes(reader.take(8 if wire == 1 else 4), "little")
                case _:
                    raise _DamagedError(f"a message has a field of unknown kind {wire}")

    def number(self, field: int) -> int:
        """A number; protobuf omits zeros."""
        return self._numbers.get(field, 0)

    def strings(self, field: int) -> list[bytes]:
        return self._strings.get(field, [])


def _check_header(header: _Message) -> None:
    """Check a BundleHeaderProto. Fields: 1 number of shards, 2 endianness (0 is little)."""
    if header.number(1) != 1:
        raise _DamagedError(f"it has {header.number(1)} data files; only one is supported")
    if header.number(2) != 0:
        raise _DamagedError("its numbers are big-endian, which is not supported")


def _tensor(entry: _Message, data: bytes) -> npt.NDArray[Any]:
    """The tensor of a BundleEntryProto. Fields: 1 type, 2 shape, 3 shard, 4 offset, 5 size, 6 checksum, 7 slices."""
    if entry.number(1) not in _DTYPES:
        raise _DamagedError(f"a tensor has the unsupported type {entry.number(1)}")
    if entry.number(3) or entry.strings(7):
        raise _DamagedError("a tensor is stored in parts, which is not supported")
    dtype = np.dtype(_DTYPES[entry.number(1)])
    shape = [_Message(dim).number(1) for message in entry.strings(2) for dim in _Message(message).strings(2)]
    offset, size = entry.number(4), entry.number(5)
    if math.prod(shape) * dtype.itemsize != size:
        raise _DamagedError("a tensor's size and shape differ")
    stored = data[offset : offset + size]
    if len(stored) < size:
        raise _DamagedError("the data file is truncated")
    if masked_crc32c(stored) != entry.number(6):
        raise _DamagedError("the data file is damaged: a tensor's checksum differs")
    return np.frombuffer(stored, dtype).reshape(shape).copy()


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`, rotated and offset as TensorFlow and LevelDB store it."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
