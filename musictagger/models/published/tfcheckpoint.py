"""Read a TensorFlow V2 checkpoint without TensorFlow.

A checkpoint is two files. The `.index` is an uncompressed sorted string table (the LevelDB format): tensor name ->
`BundleEntryProto`, a small protobuf message with type, shape, place and checksum; the empty name maps to the
header. The `.data-00000-of-00001` holds the tensors' little-endian bytes. Every block of the table and every
tensor carries a CRC-32C, and all of them are checked, so damage is an error and never a silent wrong weight.

Source: the file formats as documented in TensorFlow's `tensor_bundle.proto` and LevelDB's `table_format.md`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from musictagger.errors import ModelError

_Table = npt.NDArray[np.uint32]

_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57
_BLOCK_TRAILER_BYTES = 5  # compression type, then the masked CRC of block and type
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 19: "<f2"}


class _DamagedError(Exception):
    """The bytes are not what the format promises; becomes a ModelError at the door."""


def read_checkpoint(index: bytes, data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Every tensor of a one-shard checkpoint, by name, from the bytes of its two files.

    Raises ModelError where the bytes are truncated, damaged, foreign, or use what no published model here uses
    (several shards, partitioned or string tensors).
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
    except (_DamagedError, ValueError, OverflowError) as error:  # the latter two: names and shapes that cannot be
        raise ModelError(f"not a readable TensorFlow checkpoint: {error}") from error


# --- the table ---------------------------------------------------------------------------------------------------


def _table(index: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values of the whole table, in its order."""
    footer = index[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise _DamagedError("the index does not end as a table does; it is truncated or another kind of file")
    handles = _Reader(footer)
    handles.varint(), handles.varint()  # where the (empty) meta index lies
    root = _block(index, handles.varint(), handles.varint())
    blocks = (_Reader(handle) for _, handle in _entries(root))
    return [entry for reader in blocks for entry in _entries(_block(index, reader.varint(), reader.varint()))]


def _block(index: bytes, offset: int, size: int) -> bytes:
    """The entries of one block, its checksum checked and its restart points cut off."""
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
    """Key and value of each entry; a key is stored as what differs from the one before."""
    reader, key = _Reader(block), b""
    while not reader.at_end:
        shared, own, value = reader.varint(), reader.varint(), reader.varint()
        if shared > len(key):
            raise _DamagedError("the index has an impossible key")
        key = key[:shared] + reader.take(own)
        yield key, reader.take(value)


# --- the messages ------------------------------------------------------------------------------------------------


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
    """A protobuf message: numbers, and byte strings in the order they come, by field number."""

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
        """A number; protobuf leaves out zeros."""
        return self._numbers.get(field, 0)

    def strings(self, field: int) -> list[bytes]:
        return self._strings.get(field, [])


def _check_header(header: _Message) -> None:
    """BundleHeaderProto: 1 number of shards, 2 endianness (0 is little)."""
    if header.number(1) != 1:
        raise _DamagedError(f"it has {header.number(1)} data files, and only one is supported")
    if header.number(2) != 0:
        raise _DamagedError("its numbers are big-endian, which is not supported")


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in the data file."""

    offset: int
    size: int
    crc: int


def _tensor(entry: _Message, data: bytes) -> npt.NDArray[Any]:
    """BundleEntryProto: 1 type, 2 shape, 3 shard, 4 offset, 5 size, 6 masked checksum, 7 slices."""
    if entry.number(1) not in _DTYPES:
        raise _DamagedError(f"a tensor has the unsupported type {entry.number(1)}")
    if entry.number(3) or entry.strings(7):
        raise _DamagedError("a tensor is stored in parts, which is not supported")
    dtype = np.dtype(_DTYPES[entry.number(1)])
    shape = [_Message(dim).number(1) for message in entry.strings(2) for dim in _Message(message).strings(2)]
    place = _Place(entry.number(4), entry.number(5), entry.number(6))
    if math.prod(shape) * dtype.itemsize != place.size:
        raise _DamagedError("a tensor's size and shape differ")
    stored = data[place.offset : place.offset + place.size]
    if len(stored) < place.size:
        raise _DamagedError("the data file is truncated")
    if masked_crc32c(stored) != place.crc:
        raise _DamagedError("the data file is damaged: a tensor's checksum differs")
    return np.frombuffer(stored, dtype).reshape(shape).copy()


# --- the checksum ------------------------------------------------------------------------------------------------


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`, rotated and offset as TensorFlow and LevelDB store it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C of `data`, its long part computed on many lanes at once and the lanes joined.

    The register is linear in what was fed: zeros in front of the first lane change nothing, and a lane's register is
    moved on by the bytes after it with a 32 x 32 bit matrix.
    """
    head, body = bytes(byte ^ 0xFF for byte in data[:4]), data[4:]  # the start value 0xFFFFFFFF, fed as bytes
    if len(head) < 4:
        return _crc_of_few(data)
    lanes = 1 << (len(data).bit_length() // 2)  # about the root: 8 MB take 40 ms, and byte by byte 4 s
    length = -(-len(data) // lanes)
    fed = np.frombuffer((head + body).rjust(lanes * length, b"\0"), np.uint8).reshape(lanes, length)
    state = _advance(np.zeros(lanes, np.uint32), fed)
    matrix = _advance(np.uint32(1) << np.arange(32, dtype=np.uint32), np.zeros((32, length), np.uint8))
    while len(state) > 1:
        state = _apply(matrix, state[::2]) ^ state[1::2]
        matrix = _apply(matrix, matrix)
    return int(state[0]) ^ 0xFFFFFFFF


def _advance(state: _Table, fed: npt.NDArray[np.uint8]) -> _Table:
    """Registers [lanes] after each was fed its row of bytes [lanes, length]."""
    table = _crc_table()
    for column in fed.T:
        state = table[(state ^ column) & np.uint32(0xFF)] ^ (state >> np.uint32(8))
    return state


def _apply(matrix: _Table, state: _Table) -> _Table:
    """The bit matrix (columns as registers) times each register."""
    out = np.zeros_like(state)
    for bit, column in enumerate(matrix):
        out ^= np.where((state >> np.uint32(bit)) & np.uint32(1), column, np.uint32(0))
    return out


def _crc_of_few(data: bytes) -> int:
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = int(table[(crc ^ byte) & 0xFF]) ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@functools.cache
def _crc_table() -> _Table:
    """The register after each single byte, for the reflected polynomial 0x82F63B78."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & np.uint32(1), np.uint32(0x82F63B78), np.uint32(0))
    return table
