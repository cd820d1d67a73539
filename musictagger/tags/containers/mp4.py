"""MP4 tags: the tree of `moov` is read, one item of `ilst` replaced, and the offsets into the audio adjusted.

Every other atom is copied byte for byte, and a tree that does not render to the bytes it was read from is refused.
Sources: ISO/IEC 14496-12 (boxes, stco, co64, tfhd, tfra); Apple's QuickTime metadata (`ilst`).
"""

from __future__ import annotations

import bisect
import re
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from musictagger.audio.formats.base import MalformedError, open_bytes
from musictagger.audio.formats.mp4 import MP4, mp4_atoms
from musictagger.audio.formats.table import sniff
from musictagger.tags.containers.base import Container, TagFile, fingerprint, fingerprint_span, splice

PADDING_BYTES = 2048
_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"udta", b"ilst", b"moof", b"traf", b"mfra"}
_FRAGMENTS = (b"moof", b"mfra")
_ABSOLUTE = {b"saio", b"iloc"}  # offsets too rare to be worth the risk of moving them wrongly
_HDLR = bytes(8) + b"mdirappl" + bytes(9)
_UTF8, _UTF16 = 1, 2


@dataclass
class Atom:
    """`children` for a parent (after the bytes `data`), else None and `data` is the payload."""

    name: bytes
    data: bytes
    children: list[Atom] | None = None

    def render(self) -> bytes:
        """The atom with its header, and its children. Raises MalformedError from 4 GB on."""
        body = self.data + b"".join(child.render() for child in self.children or ())
        if len(body) + 8 >= 1 << 32:
            raise MalformedError("its tags would grow beyond 4 GB")
        return struct.pack(">I4s", len(body) + 8, self.name) + body

    def find(self, *path: bytes) -> Atom | None:
        """The atom at the end of a path of names, each of the first child of that name."""
        atom: Atom | None = self
        for name in path:
            atom = next((child for child in (atom and atom.children) or () if child.name == name), None)
        return atom

    def walk(self) -> Iterator[Atom]:
        """The atom itself and all atoms below it."""
        yield self
        for child in self.children or ():
            yield from child.walk()


def parse(data: bytes) -> list[Atom]:
    """The atoms in `data`, one after another. Raises MalformedError unless they render to the same bytes."""
    atoms, at = [], 0
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8]) if at + 8 <= len(data) else (0, b"")
        if size < 8 or at + size > len(data):
            raise MalformedError(f"its atoms overlap after {name!r}")
        atoms.append(_atom(name, data[at + 8 : at + size]))
        at += size
    return atoms


def _atom(name: bytes, body: bytes) -> Atom:
    head = 4 if name == b"meta" and body[4:8] != b"hdlr" else 0
    if name in _PARENTS or name == b"meta":
        # QuickTime ends the list of user data with four zero bytes; such an atom is copied undivided.
        try:
            return Atom(name, body[:head], parse(body[head:]))
        except MalformedError:
            if name in (b"moov", b"ilst"):
                raise
    return Atom(name, body)


class _Mp4File(TagFile[Atom]):
    """The `ilst` atom of an MP4 file, in `moov.udta.meta`."""

    system = "MP4"

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_bytes(path) as file:
            self._top = list(mp4_atoms(file, sniff(file)[1], file.size))
            indexes = [(at, end) for name, at, _, end in self._top if name == b"moov"]
            if len(indexes) != 1:
                raise MalformedError("it has no index (moov), or several")
            self._start, self._end = indexes[0]
            data = file.at(self._start, self._end - self._start)
        self._moov = parse(data)[0]
        if self._moov.name != b"moov" or self._moov.render() != data:
            raise MalformedError("its index (moov) is of a kind that cannot be copied faithfully")

    @property
    def _items(self) -> list[Atom]:
        ilst = self._moov.find(b"udta", b"meta", b"ilst")
        return ilst.children or [] if ilst else []

    @_items.setter
    def _items(self, items: list[Atom]) -> None:
        """Replace the children of `ilst`, which is created where it is missing."""
        udta = self._moov.find(b"udta")
        if udta is None:
            udta = Atom(b"udta", b"", [])
            self._moov.children = [*(self._moov.children or ()), udta]
        if udta.children is None:
            raise MalformedError("its user data (udta) is of a kind that cannot be extended")
        meta = udta.find(b"meta")
        if meta is None:
            meta = Atom(b"meta", bytes(4), [Atom(b"hdlr", _HDLR)])
            udta.children.append(meta)
        handler = meta.find(b"hdlr")
        if meta.children is None or handler is None or handler.data[8:12] != b"mdir":
            raise MalformedError("its metadata are not in the form of iTunes")
        ilst = meta.find(b"ilst")
        if ilst is None:
            ilst = Atom(b"ilst", b"")
            meta.children.append(ilst)
        ilst.children = items

    def _is(self, item: Atom, key: str) -> bool:
        return _key(item) == key.casefold()

    def _texts(self, item: Atom, errors: str = "replace") -> Sequence[str]:
        """The values of an item; a numbered genre as ID3 writes it, `(17)`."""
        values = []
        for part in parse(item.data):
            kind, content = part.data[3:4], part.data[8:]
            if part.name == b"data" and item.name == b"gnre" and len(content) == 2:
                values.append(f"({int.from_bytes(content, 'big') - 1})")
            elif part.name == b"data":
                values.append(content.decode("utf-16-be" if kind == bytes([_UTF16]) else "utf-8", errors))
        return values

    def _raw(self, item: Atom) -> tuple[str, bytes]:
        return _key(item), item.render()

    def _new_items(self, key: str, values: tuple[str, ...], old: Sequence[Atom]) -> Sequence[Atom]:
        # A numbered genre goes back into its atom, which can hold nothing else.
        items = []
        texts = list(values)
        number = re.fullmatch(r"\(([0-9]{1,4})\)", texts[0]) if key == "\xa9gen" and texts else None
        if number:
            content = struct.pack(">IIH", 0, 0, int(number[1]) + 1)
            items = [item for item in old if item.name == b"gnre" and self._texts(item) == [texts[0]]][:1]
            del texts[0]
            items = items or [Atom(b"gnre", Atom(b"data", content).render())]
        data = b"".join(Atom(b"data", struct.pack(">II", _UTF8, 0) + text.encode("utf-8")).render() for text in texts)
        if data and key.startswith("----"):
            _, mean, name = key.split(":")
            parts = Atom(b"mean", bytes(4) + mean.encode()).render() + Atom(b"name", bytes(4) + name.encode()).render()
            items.append(Atom(b"----", parts + data))
        elif data:
            items.append(Atom(key.encode("latin-1"), data))
        return items

    def save(self) -> None:
        shift = self._fit()
        patched = []
        if shift and self._end < self._top[-1][3]:
            self._move_offsets(self._moov, shift)
            patched = self._patched_fragments(shift)
        splice(self._path, self._start, self._end - self._start, self._moov.render())
        for at, data in patched:
            splice(self._path, at, len(data), data)

    def _fit(self) -> int:
        """Let the free atom in `meta` absorb the change of size; returns the bytes by which `moov` still grows."""
        meta = self._moov.find(b"udta", b"meta")
        shift = len(self._moov.render()) - (self._end - self._start)
        if not shift or meta is None or meta.children is None:
            return shift
        free = meta.find(b"free")
        if free is None and shift <= -8:
            meta.children.append(Atom(b"free", bytes(-shift - 8)))
            return 0
        if free is not None and len(free.data) >= shift:
            free.data = bytes(len(free.data) - shift)
            return 0
        if free is None:
            free = Atom(b"free", b"")
            meta.children.append(free)
        free.data = bytes(PADDING_BYTES)
        return len(self._moov.render()) - (self._end - self._start)

    def _moved(self, offset: int, shift: int) -> int:
        return offset + shift if offset >= self._end else offset

    def _move_offsets(self, tree: Atom, shift: int) -> None:
        """Move every offset into the file in `tree` that points behind `moov`."""
        for atom in tree.walk():
            if atom.name in _ABSOLUTE:
                raise MalformedError(f"its {atom.name.decode()} atom points into the file in a way not supported")
            form, positions = _offset_positions(atom)
            data = bytearray(atom.data)
            for position in positions:
                struct.pack_into(form, data, position, self._moved(struct.unpack_from(form, data, position)[0], shift))
            atom.data = bytes(data)

    def _patched_fragments(self, shift: int) -> list[tuple[int, bytes]]:
        """The new offset and bytes of each fragment of the index outside of `moov`."""
        patched = []
        with open_bytes(self._path) as file:
            for name, at, _, end in self._top:
                if name in _FRAGMENTS:
                    atom = parse(file.at(at, end - at))[0]
                    self._move_offsets(atom, shift)
                    patched.append((self._moved(at, shift), atom.render()))
        return patched

    def others(self, keys: Collection[str]) -> dict[str, str]:
        return super().others(keys) | self._index() | self._top_level()

    def _index(self) -> dict[str, str]:
        """All other atoms of `moov`, except the handler that an untagged file gets from us."""
        found: dict[str, str] = {}
        items = {id(item) for item in self._items}
        for atom in self._moov.walk():
            ours = atom.name == b"hdlr" and atom.data == _HDLR
            if atom.children is None and atom.name != b"free" and id(atom) not in items and not ours:
                found[f"atom {len(found)} {atom.name!r}"] = fingerprint(self._relative(atom))
        return found

    def _relative(self, atom: Atom) -> bytes:
        """The payload, with each offset into the file as a top-level atom and the distance from its beginning."""
        form, positions = _offset_positions(atom)
        if not positions:
            return atom.data
        starts = [at for _, at, _, _ in self._top]
        relative, data = [], bytearray(atom.data)
        for position in positions:
            offset = struct.unpack_from(form, data, position)[0]
            index = bisect.bisect_right(starts, offset) - 1
            relative.append(f"{index}:{offset - starts[max(0, index)]}")
            struct.pack_into(form, data, position, 0)
        return bytes(data) + " ".join(relative).encode()

    def _top_level(self) -> dict[str, str]:
        found: dict[str, str] = {}
        with open_bytes(self._path) as file:
            for index, (name, at, body, end) in enumerate(self._top):
                value = ""
                if name in _FRAGMENTS:
                    leaves = parse(file.at(at, end - at))[0].walk()
                    value = fingerprint(b"".join(leaf.name + self._relative(leaf) for leaf in leaves))
                elif name not in (b"moov", b"mdat"):
                    value = fingerprint_span(file, body, end)
                found[f"top {index} {name!r}"] = value
        return found


def _offset_positions(atom: Atom) -> tuple[str, Sequence[int]]:
    """The struct format of the offsets into the file that `atom` holds, and their positions in its payload."""
    data = atom.data
    try:
        if atom.name in (b"stco", b"co64"):
            width = 4 if atom.name == b"stco" else 8
            positions: Sequence[int] = range(8, 8 + width * int.from_bytes(data[4:8], "big"), width)
        elif atom.name == b"tfhd" and data[3] & 1:
            width, positions = 8, [8]
        elif atom.name == b"tfra":
            width = 8 if data[0] else 4
            lengths, count = struct.unpack_from(">II", data, 8)
            step = 2 * width + 3 + (lengths >> 4 & 3) + (lengths >> 2 & 3) + (lengths & 3)
            positions = range(16 + width, 16 + width + step * count, step)
        else:
            return "", ()
    except (struct.error, IndexError) as error:
        raise MalformedError(f"its {atom.name.decode()} atom is cut off") from error
    if positions and positions[-1] + width > len(data):
        raise MalformedError(f"its {atom.name.decode()} atom is cut off")
    return ">I" if width == 4 else ">Q", positions


def _key(item: Atom) -> str:
    """The name of an item as in the table, folded; numbered genres count as `©gen`."""
    if item.name == b"gnre":
        return "\xa9gen"
    if item.name != b"----":
        return item.name.decode("latin-1").casefold()
    try:
        parts = {part.name: part.data[4:].decode("utf-8", "replace") for part in parse(item.data)}
    except MalformedError:
        return "----"
    return f"----:{parts.get(b'mean', '')}:{parts.get(b'name', '')}".casefold()


CONTAINER = Container("mp4", "MP4 (AAC, ALAC)", MP4, ("MP4",), lambda path, join: _Mp4File(path))
