"""The digest of the audio stays the same when a file is retagged, and changes with the audio."""

from __future__ import annotations

import io
import itertools
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import media
import mutagen
import mutagen.id3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutagen.apev2 import APEv2
from mutagen.flac import Picture
from mutagen.mp4 import MP4Cover

from musictagger.audio.digest import audio_digest
from musictagger.audio.formats.flac import FLAC
from musictagger.audio.formats.stream import STREAM
from musictagger.tags.containers.table import CONTAINERS

TAGS = {"artist": "An artist", "title": "A title", "album": "An album", "genre": "Rock"}
BETWEEN_TAGS = [
    container.name
    for container in CONTAINERS.values()
    if container.format in (STREAM, FLAC) and container.name in media.EXTENSIONS
]
quiet = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def add_picture(path: Path, size: int) -> None:
    """Add a picture of `size` random bytes to the tags."""
    file: Any = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    data = os.urandom(size)
    kind = type(file.tags).__name__
    if isinstance(file.tags, mutagen.id3.ID3):
        file.tags.setall("APIC", [mutagen.id3.APIC(encoding=0, mime="image/png", type=3, desc="", data=data)])
    elif kind == "MP4Tags":
        file.tags["covr"] = [MP4Cover(data, imageformat=MP4Cover.FORMAT_PNG)]
    elif kind == "ASFTags":
        file.tags["WM/Picture"] = [mutagen.asf.ASFByteArrayAttribute(data)]
    elif kind == "APEv2":
        file.tags["Cover Art (Front)"] = mutagen.apev2.APEValue(b"a.png\0" + data, mutagen.apev2.BINARY)
    elif hasattr(file, "add_picture"):
        picture = Picture()
        picture.data, picture.type, picture.mime = data, 3, "image/png"
        file.clear_pictures()
        file.add_picture(picture)
    else:
        file.tags["metadata_block_picture"] = data.hex()
    file.save()


@pytest.mark.parametrize("container", media.TAGGABLE)
def test_retagging_keeps_the_digest(container: str, tmp_path: Path) -> None:
    path = media.make(container, tmp_path)
    before = audio_digest(path)
    assert len(before) == 64
    media.add_tags(path, TAGS)
    assert audio_digest(path) == before
    for size in (100, 300_000, 5):
        add_picture(path, size)
        assert audio_digest(path) == before
    file: Any = mutagen.File(path)
    file.delete()
    assert audio_digest(path) == before


@pytest.mark.parametrize("container", media.TAGGABLE)
@quiet
@given(text=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=3000))
def test_any_title_keeps_the_digest(container: str, tmp_path: Path, text: str) -> None:
    path = media.make(container, tmp_path)
    before = audio_digest(path)
    media.add_tags(path, {"title": text})
    assert audio_digest(path) == before


@pytest.mark.parametrize("container", [*media.TAGGABLE, "aac", "matroska"])
def test_one_flipped_bit_of_audio_changes_it(container: str, tmp_path: Path) -> None:
    path = media.make(container, tmp_path)
    before = audio_digest(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 500 if b"mdat" in data else len(data) * 2 // 3
    data[at] ^= 1
    path.write_bytes(data)
    assert audio_digest(path) != before


def test_every_container_has_its_own_digest(tmp_path: Path) -> None:
    # Only the same AAC frames in two layouts of MP4 have the same digest.
    same = {audio_digest(media.make(name, tmp_path, name=name)) for name in ("m4a", "m4a-faststart")}
    others = {audio_digest(media.make(name, tmp_path, name=name)) for name in media.EXTENSIONS if "start" not in name}
    assert len(same) == 1
    assert len(others) == len(media.EXTENSIONS) - 1


def test_file_names_do_not_matter(tmp_path: Path) -> None:
    path = media.make("mp3", tmp_path)
    odd = tmp_path / os.fsdecode(b"caf\xe9.flac")
    path.rename(odd)
    assert audio_digest(odd) == audio_digest(media.make("mp3", tmp_path))


def _id3v2(payload: bytes, footer: bool = False) -> bytes:
    size = len(payload)
    sizes = bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127])
    flags = b"\x04\0" + (b"\x10" if footer else b"\0") + sizes
    return b"ID3" + flags + payload + (b"3DI" + flags if footer else b"")


def _ape(header: bool) -> bytes:
    file = io.BytesIO()
    tag = APEv2()
    tag["Title"] = "x" * 100
    tag.save(file)
    return file.getvalue() if header else file.getvalue()[32:-12] + b"\0\0\0\0" + bytes(8)


ID3V1 = b"TAG" + b"t" * 125
ENHANCED = b"TAG+" + b"t" * 223 + ID3V1
LYRICS3 = b"LYRICSBEGININD0000200" + b"000021LYRICS200"
LYRICS3V1 = b"LYRICSBEGIN" + b"la la " * 50 + b"LYRICSEND"
FRONT = [b"", _id3v2(bytes(300)), _id3v2(bytes(20)) + _id3v2(bytes(70)), _id3v2(bytes(40), footer=True)]
BEHIND = [
    b"",
    ID3V1,
    ENHANCED,
    _ape(header=True),
    _ape(header=False),
    _ape(header=True) + ID3V1,
    LYRICS3 + ID3V1,
    LYRICS3V1 + ID3V1,
    ID3V1 + _ape(header=True),
    _ape(header=True) + LYRICS3 + ID3V1,
]


@pytest.mark.parametrize("length", range(40, 70))
def test_an_ape_tag_of_any_length_is_not_taken_for_id3v1(length: int, tmp_path: Path) -> None:
    # At one of these lengths the TAG of its header's APETAGEX is where that of an ID3v1 tag would be.
    path = media.make("ape", tmp_path)
    before = audio_digest(path)
    media.add_tags(path, {"title": "x" * length})
    assert audio_digest(path) == before


@pytest.mark.parametrize("container", BETWEEN_TAGS)
def test_tags_in_front_and_behind_are_not_hashed(container: str, tmp_path: Path) -> None:
    path = media.make(container, tmp_path)
    before, data = audio_digest(path), path.read_bytes()
    for front in FRONT:
        for behind in BEHIND:
            path.write_bytes(front + data + behind)
            assert audio_digest(path) == before, (front, behind)


def test_a_tag_in_front_of_ogg_and_junk_in_front_of_mp3(tmp_path: Path) -> None:
    path = media.make("vorbis", tmp_path)
    before = audio_digest(path)
    path.write_bytes(_id3v2(bytes(99)) + path.read_bytes())
    assert audio_digest(path) == before
    junk = tmp_path / "junk.mp3"
    junk.write_bytes(bytes(1000) + media.payload("mp3"))
    before = audio_digest(junk)
    junk.write_bytes(_id3v2(bytes(99)) + junk.read_bytes() + ID3V1)
    assert audio_digest(junk) == before


def test_chained_and_multiplexed_ogg(tmp_path: Path) -> None:
    one, two = media.payload("vorbis"), media.payload("opus")
    path = tmp_path / "chained.ogg"
    path.write_bytes(one + two)
    chained = audio_digest(path)
    path.write_bytes(two + one)
    assert audio_digest(path) != chained
    path.write_bytes(one)
    assert audio_digest(path) != chained
    path.write_bytes(one + two)
    media.add_tags(path, {"title": "long " * 20_000})
    assert audio_digest(path) == chained
    path.write_bytes(_interleaved(one, two))
    multiplexed = audio_digest(path)
    media.add_tags(path, {"title": "long " * 20_000})
    assert audio_digest(path) == multiplexed


def _interleaved(one: bytes, two: bytes) -> bytes:
    pages: list[list[bytes]] = []
    for data, serial in ((one, 1), (two, 2)):
        data = media.with_serial(data, serial)
        starts = [i for i in range(len(data)) if data[i : i + 5] == b"OggS\0"] + [len(data)]
        pages.append([data[a:b] for a, b in itertools.pairwise(starts)])
    mixed = []
    for index in range(max(map(len, pages))):
        mixed += [stream[index] for stream in pages if index < len(stream)]
    return b"".join(mixed)


def test_page_boundaries_of_ogg_do_not_matter(tmp_path: Path) -> None:
    path = media.make("opus", tmp_path)
    before = audio_digest(path)
    source = io.BytesIO(path.read_bytes())
    pages = []
    while source.tell() < len(source.getvalue()):
        pages.append(mutagen.ogg.OggPage(source))
    packets = mutagen.ogg.OggPage.to_packets(pages[2:])
    new = mutagen.ogg.OggPage.from_packets(packets, sequence=2, default_size=1000)
    for page in new:
        page.serial = pages[0].serial
    path.write_bytes(b"".join(page.write() for page in pages[:2] + new))
    assert len(new) > len(pages)
    assert audio_digest(path) == before


def test_mp4_sizes_of_64_bits_and_to_the_end(tmp_path: Path) -> None:
    audio = os.urandom(3000)
    path = tmp_path / "a.m4a"
    head = struct.pack(">I4s8s", 16, b"ftyp", b"M4A \0\0\0\0")
    layouts = [
        struct.pack(">I4s", 3008, b"mdat") + audio,
        struct.pack(">I4sQ", 1, b"mdat", 3016) + audio,
        struct.pack(">I4s", 0, b"mdat") + audio,
        struct.pack(">I4s", 10, b"free") + b"xx" + struct.pack(">I4s", 0, b"mdat") + audio,
    ]
    digests = set()
    for layout in layouts:
        path.write_bytes(head + layout)
        digests.add(audio_digest(path))
    assert len(digests) == 1


def test_wav_with_long_and_unknown_sizes(tmp_path: Path) -> None:
    plain = media.make("wav", tmp_path)
    data = plain.read_bytes()
    at = data.index(b"data")
    unknown = data[:4] + b"\xff\xff\xff\xff" + data[8 : at + 4] + b"\xff\xff\xff\xff" + data[at + 8 :]
    (tmp_path / "unknown.wav").write_bytes(unknown)
    ds64 = struct.pack("<4sIQQQI", b"ds64", 28, 0, len(data) - at - 8, 0, 0)
    (tmp_path / "rf64.wav").write_bytes(b"RF64" + unknown[4:12] + ds64 + unknown[12:] + b"LIST\x04\0\0\0abcd")
    digests = {audio_digest(tmp_path / name) for name in ("unknown.wav", "rf64.wav")} | {audio_digest(plain)}
    assert len(digests) == 1


BROKEN = {
    "empty": b"",
    "one byte": b"I",
    "text": b"This is no music at all.\n" * 10,
    "id3 beyond the end": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(100),
    "id3 with a bad size": b"ID3\x04\0\0\xff\xff\xff\xff" + bytes(100),
    "flac cut in its metadata": media.payload("flac")[:30],
    "flac of endless metadata": b"fLaC" + b"\0\0\0\x22" + bytes(34) + b"\x01\xff\xff\xff",
    "ogg of one header": media.payload("vorbis")[:40],
    "ogg of a magic": b"OggS",
    "mp4 of nothing": struct.pack(">I4s", 4, b"ftyp") * 4,
    "mp4 without audio": struct.pack(">I4s", 8, b"ftyp") * 4,
    "mp4 with an impossible size": struct.pack(">I4sQ", 1, b"ftyp", 3) + bytes(40),
    "wav without chunks": b"RIFF\0\0\0\0WAVE",
    "wav of format alone": media.payload("wav")[:36],
    "asf cut": media.payload("wma")[:100],
    "asf with an empty object": media.payload("wma")[:16] + bytes(100),
    "ape with a silly size": media.payload("mp3") + b"APETAGEX" + struct.pack("<4I8x", 2000, 2**32 - 1, 9, 0),
}


@pytest.mark.parametrize("defect", BROKEN)
def test_damaged_files_have_a_digest(defect: str, tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_bytes(BROKEN[defect])
    first = audio_digest(path)
    path.write_bytes(BROKEN[defect] + b"x")
    assert audio_digest(path) != first


@pytest.mark.parametrize("container", media.EXTENSIONS)
@quiet
@given(cut=st.floats(0, 1), junk=st.binary(max_size=200))
def test_truncated_files_and_garbage_never_raise(container: str, tmp_path: Path, cut: float, junk: bytes) -> None:
    data = media.payload(container)
    path = tmp_path / "cut"
    path.write_bytes(data[: round(len(data) * cut)] + junk)
    assert len(audio_digest(path)) == 64


def test_a_missing_file_raises_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        audio_digest(tmp_path / "nowhere.mp3")


@pytest.mark.parametrize("container", ["mp3", "vorbis", "wav", "m4a"])
def test_memory_does_not_grow_with_the_file(container: str, tmp_path: Path) -> None:
    path = tmp_path / "long"
    data = media.payload(container)
    with path.open("wb") as file:
        for _ in range(1 + 60_000_000 // len(data)):
            file.write(data)
    tracemalloc.start()
    audio_digest(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
