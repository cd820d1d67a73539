"""The reader of TensorFlow checkpoints, on tables built byte by byte and on damaged ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musictagger.errors import ModelError
from musictagger.models.published.tfcheckpoint import masked_crc32c, read_checkpoint

MAGIC = 0xDB4775248B80FB57
TYPES = {"<f4": 1, "<i4": 3, "<i8": 9}


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def text(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Entries with shared key prefixes, one restart point, and the trailer."""
    out, before = b"", b""
    for key, value in entries:
        shared = next(
            (i for i, (a, b) in enumerate(zip(key, before, strict=False)) if a != b), min(len(key), len(before))
        )
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    out += struct.pack("<II", 0, 1)
    return out + b"\0" + struct.pack("<I", masked_crc32c(out + b"\0"))


def table(blocks: list[list[tuple[bytes, bytes]]]) -> bytes:
    out, handles = b"", []
    for entries in blocks:
        written = block(entries)
        handles.append((entries[-1][0], varint(len(out)) + varint(len(written) - 5)))
        out += written
    meta, root = block([]), block(handles)
    footer = varint(len(out)) + varint(len(meta) - 5) + varint(len(out) + len(meta)) + varint(len(root) - 5)
    return out + meta + root + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def entry(array: npt.NDArray[np.generic], offset: int, **changed: int) -> bytes:
    stored = array.tobytes()
    shape = b"".join(text(2, number(1, size)) for size in array.shape)
    kind = changed.get("kind", TYPES.get(array.dtype.str, 0))
    crc = struct.pack("<I", masked_crc32c(stored))
    return number(1, kind) + text(2, shape) + number(4, offset) + number(5, len(stored)) + varint(6 << 3 | 5) + crc


HEADER = number(1, 1) + text(3, number(1, 1))
ARRAYS: dict[str, npt.NDArray[np.generic]] = {
    "conv/bias": np.arange(5, dtype="<f4"),
    "conv/kernel": np.linspace(-1, 1, 24).astype("<f4").reshape(2, 3, 4),
    "conv_1/kernel": np.full((1, 70), -7, "<i4"),
    "step": np.array(12345678901, "<i8"),
}


def checkpoint(header: bytes = HEADER, arrays: Mapping[str, npt.NDArray[np.generic]] = ARRAYS) -> tuple[bytes, bytes]:
    """The two files, `.index` and `.data-00000-of-00001`."""
    data, entries = b"", [(b"", header)]
    for name, array in sorted(arrays.items()):
        entries.append((name.encode(), entry(array, len(data))))
        data += array.tobytes()
    return table([entries[:2], entries[2:]]), data


INDEX, DATA = checkpoint()


@pytest.mark.parametrize(
    ("data", "crc"), [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)]
)
def test_the_masked_checksum_comes_from_the_published_check_values(data: bytes, crc: int) -> None:
    assert masked_crc32c(data) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_reads_every_tensor_with_its_type_and_shape() -> None:
    read = read_checkpoint(INDEX, DATA)
    assert list(read) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)


def test_reading_copies_so_that_tensors_can_be_written_to() -> None:
    assert all(tensor.flags.writeable for tensor in read_checkpoint(INDEX, DATA).values())


@pytest.mark.parametrize("end", range(len(INDEX)))
def test_a_truncated_index_is_an_error(end: int) -> None:
    with pytest.raises(ModelError, match="not a readable TensorFlow checkpoint"):
        read_checkpoint(INDEX[:end], DATA)


@pytest.mark.parametrize("end", [0, 1, len(DATA) // 2, len(DATA) - 1])
def test_truncated_data_is_an_error(end: int) -> None:
    with pytest.raises(ModelError, match="truncated"):
        read_checkpoint(INDEX, DATA[:end])


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_data_byte_is_an_error(at: int, flip: int) -> None:
    changed = bytearray(DATA)
    changed[at] ^= flip
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(INDEX, bytes(changed))


@settings(max_examples=400)
@given(st.integers(0, len(INDEX) - 1), st.integers(1, 255))
def test_a_changed_index_byte_is_an_error_or_changes_nothing(at: int, flip: int) -> None:
    """The meta block and the footer's padding are not read; every other byte is covered by a checksum."""
    changed = bytearray(INDEX)
    changed[at] ^= flip
    try:
        read = read_checkpoint(bytes(changed), DATA)
    except ModelError:
        return
    assert {name: tensor.tobytes() for name, tensor in read.items()} == {k: v.tobytes() for k, v in ARRAYS.items()}


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=40)), min_size=1, max_size=4), st.binary(max_size=64)
)
def test_any_content_with_valid_checksums_is_a_model_error_or_tensors(
    entries: list[tuple[bytes, bytes]], data: bytes
) -> None:
    try:
        read_checkpoint(table([[(b"", HEADER), *entries]]), data)
    except ModelError as error:
        assert "checkpoint" in str(error)


@given(st.binary(max_size=400))
def test_foreign_bytes_are_an_error(content: bytes) -> None:
    for index in (content, content + struct.pack("<Q", MAGIC)):
        with pytest.raises(ModelError):
            read_checkpoint(index, DATA)


@pytest.mark.parametrize(
    ("header", "reason"), [(number(1, 2), "2 data files"), (number(1, 1) + number(2, 1), "big-endian"), (b"", "0 data")]
)
def test_unsupported_features_are_named(header: bytes, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        read_checkpoint(*checkpoint(header))


def test_an_unsupported_type_is_named() -> None:
    index = table([[(b"", HEADER), (b"s", entry(ARRAYS["step"], 0, kind=7))]])
    with pytest.raises(ModelError, match="unsupported type 7"):
        read_checkpoint(index, DATA)


def test_an_impossible_shape_is_an_error_and_allocates_nothing() -> None:
    shape = text(2, number(1, 2**64 - 1)) + text(2, number(1, 0))
    index = table([[(b"", HEADER), (b"s", number(1, 1) + text(2, shape))]])
    with pytest.raises(ModelError):
        read_checkpoint(index, DATA)


def test_tensors_that_share_their_bytes_are_an_error() -> None:
    """Otherwise a small file could claim terabytes."""
    shared = [(b"%04d" % number, entry(ARRAYS["step"], 0)) for number in range(1000)]
    with pytest.raises(ModelError, match="its tensors overlap"):
        read_checkpoint(table([[(b"", HEADER), *shared]]), ARRAYS["step"].tobytes())
