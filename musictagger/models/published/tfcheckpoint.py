"""Read a TensorFlow V2 checkpoint without TensorFlow.

A checkpoint is two files. The `.index` is an uncompressed sorted string table in the LevelDB format. It maps each
tensor's name to a `BundleEntryProto`, a protobuf message with type, shape, offset, size and checksum; the empty name
maps to the header. The `.data-00000-of-00001` holds the tensors' little-endian bytes. Every block of the table and
every tensor has a CRC-32C, and all are checked, so that damage is an error and never a silently wrong weight.

Source: TensorFlow's `tensor_bundle.proto` and LevelDB's `table_format.md`.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
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
        header, _ = _message(entries[0][1])  # a BundleHeaderProto: 1 number of shards, 2 endianness (0 is little)
        if header[1] != 1:
            raise _DamagedError(f"it has {header[1]} data files; only one is supported")
        if header[2] != 0:
            raise _DamagedError("its numbers are big-endian, which is not supported")
        tensors = [(name.decode(), *_message(value)) for name, value in entries[1:]]
        if sum(numbers[5] for _, numbers, _ in tensors) > len(data):
            raise _DamagedError("the data file is truncated, or its tensors overlap")
        return {name: _tensor(numbers, strings, data) for name, numbers, strings in tensors}
    except (_DamagedError, ValueError, OverflowError) as error:  # the latter two from invalid names and shapes
        raise ModelError(f"not a readable TensorFlow checkpoint: {error}") from error


def _table(index: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values of the whole table, in order."""
    footer = index[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise _DamagedError("the index has no footer; it is truncated or of another format")
    handles = io.BytesIO(footer)
    _varint(handles), _varint(handles)  # offset and size of the (empty) meta index
    blocks = (io.BytesIO(handle) for _, handle in _entries(_block(index, handles)))
    return [entry for handle in blocks for entry in _entries(_block(index, handle))]


def _block(index: bytes, handle: io.BytesIO) -> bytes:
    """The entries of the block at a handle, after a check of its checksum and without its restart points."""
    offset, size = _varint(handle), _varint(handle)
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
    stream, key = io.BytesIO(block), b""
    while stream.tell() < len(block):
        shared, own, value = _varint(stream), _varint(stream), _varint(stream)
        if shared > len(key):
            raise _DamagedError("the index has an impossible key")
        key = key[:shared] + _take(stream, own)
        yield key, _take(stream, value)


def _take(stream: io.BytesIO, count: int) -> bytes:
    taken = stream.read(count)
    if len(taken) < count:
        raise _DamagedError("a length points past the end")
    return taken


def _varint(stream: io.BytesIO) -> int:
    """A base-128 integer of at most 64 bits, lowest seven bits first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = _take(stream, 1)[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise _DamagedError("a number has no end")


_Numbers = defaultdict[int, int]
_Strings = defaultdict[int, list[bytes]]


def _message(data: bytes) -> tuple[_Numbers, _Strings]:
    """The numbers of a protobuf message, which omits zeros, and its byte strings, by field number."""
    numbers, strings = _Numbers(int), _Strings(list)
    stream = io.BytesIO(data)
    while stream.tell() < len(data):
        field, wire = divmod(_varint(stream), 8)
        match wire:
            case 0:
                numbers[field] = _varint(stream)
            case 2:
                strings[field].append(_take(stream, _varint(stream)))
            case 1 | 5:
                numbers[field] = int.from_bytes(_take(stream, 8 if wire == 1 else 4), "little")
            case _:
                raise _DamagedError(f"a message has a field of unknown kind {wire}")
    return numbers, strings


def _tensor(numbers: _Numbers, strings: _Strings, data: bytes) -> npt.NDArray[Any]:
    """The tensor of a BundleEntryProto. Fields: 1 type, 2 shape, 3 shard, 4 offset, 5 size, 6 checksum, 7 slices."""
    if numbers[1] not in _DTYPES:
        raise _DamagedError(f"a tensor has the unsupported type {numbers[1]}")
    if numbers[3] or strings[7]:
        raise _DamagedError("a tensor is partitioned, which is not supported")
    dtype = np.dtype(_DTYPES[numbers[1]])
    shape = [_message(dim)[0][1] for message in strings[2] for dim in _message(message)[1][2]]
    offset, size = numbers[4], numbers[5]
    if math.prod(shape) * dtype.itemsize != size:
        raise _DamagedError("a tensor's size and shape differ")
    stored = data[offset : offset + size]
    if len(stored) < size:
        raise _DamagedError("the data file is truncated")
    if masked_crc32c(stored) != numbers[6]:
        raise _DamagedError("the data file is damaged: a tensor's checksum differs")
    return np.frombuffer(stored, dtype).reshape(shape).copy()


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`, rotated and offset as TensorFlow and LevelDB store it."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
