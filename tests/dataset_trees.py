"""Small trees in the exact formats of the real datasets, with a few bytes where the music would be."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from musictagger.audio.walk import FoundFile
from musictagger.datasets import gtzan
from musictagger.library.store import Store
from musictagger.tags.fields import FileTags

Tree = Callable[[Path], Path]
"""Makes a tree in an empty folder; returns the path for `read`."""


def listed(text: str) -> tuple[str, ...]:
    """The tags between commas."""
    return tuple(" ".join(tag.split()) for tag in text.split(","))


def touch(path: Path, content: bytes = b"sound") -> Path:
    """An existing file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write(path: Path, text: str) -> Path:
    """A text file, with folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def folders_tree(folder: Path) -> Path:
    """Three genres of ten tracks."""
    for genre in ("Blues", "Drum & Bass", "Jazz"):
        for index in range(10):
            touch(folder / genre / f"album {index % 2}" / f"{index:02d}.mp3", f"{genre} {index}".encode())
    return folder


def music_tree(folder: Path) -> Path:
    """Ten packages of three tracks, some of them in subfolders."""
    for index in range(30):
        name = f"package {index // 3}/{'music/' * (index % 2)}{index:02d}.mp3"
        touch(folder / name, f"sound {index}".encode())
    return folder


def manifest_tree(folder: Path) -> Path:
    """A CSV of twelve tracks with splits."""
    lines = ["path,tags,split,artist,duration_s"]
    for index in range(12):
        split = ("train", "validation", "test")[index // 4]
        touch(folder / "music" / f"{index}.mp3")
        lines.append(f'"music/{index}.mp3",{"rock" if index % 2 else "jazz;80s"},{split},Artist {index},30')
    return write(folder / "list.csv", "\n".join(lines) + "\n")


# ---- MagnaTagATune ------------------------------------------------------------------------------------------------

MTAT_COLUMNS = listed(
    """
    no voice, singer, duet, plucking, hard rock, world, bongos, harpsichord, female singing, clasical, sitar,
    chorus, female opera, male vocal, vocals, clarinet, heavy, silence, beats, men, woodwind, funky, no strings,
    chimes, foreign, no piano, horns, classical, female, no voices, soft rock, eerie, spacey, jazz, guitar, quiet,
    no beat, banjo, electric, solo, violins, folk, female voice, wind, happy, ambient, new age, synth, funk, no
    singing, middle eastern, trumpet, percussion, drum, airy, voice, repetitive, birds, space, strings, bass,
    harpsicord, medieval, male voice, girl, keyboard, acoustic, loud, classic, string, drums, electronic, not
    classical, chanting, no violin, not rock, no guitar, organ, no vocal, talking, choral, weird, opera, soprano,
    fast, acoustic guitar, electric guitar, male singer, man singing, classical guitar, country, violin, electro,
    reggae, tribal, dark, male opera, no vocals, irish, electronica, horn, operatic, arabic, lol, low, instrumental,
    trance, chant, strange, drone, synthesizer, heavy metal, modern, disco, bells, man, deep, fast beat, industrial,
    hard, harp, no flute, jungle, pop, lute, female vocal, oboe, mellow, orchestral, viola, light, echo, piano,
    celtic, male vocals, orchestra, eastern, old, flutes, punk, spanish, sad, sax, slow, male, blues, vocal, indian,
    no singer, scary, india, woman, woman singing, rock, dance, piano solo, guitars, no drums, jazzy, singing,
    cello, calm, female vocals, voices, different, techno, clapping, house, monks, flute, not opera, not english,
    oriental, beat, upbeat, soft, noise, choir, female singer, rap, metal, hip hop, quick, water, baroque, women,
    fiddle, english
    """
)
"""The 188 columns of annotations_final.csv, in its order."""
MTAT_TOP50 = listed(
    """
    guitar, classical, slow, techno, strings, drums, electronic, rock, fast, piano, ambient, beat, violin, vocal,
    synth, female, indian, opera, male, singing, vocals, no vocals, harpsichord, loud, quiet, flute, woman, male
    vocal, no vocal, pop, soft, sitar, solo, man, classic, choir, voice, new age, dance, male voice, female vocal,
    beats, harp, cello, no voice, weird, country, metal, female voice, choral
    """
)
"""The tags of the usual benchmark."""


def mtat_tables(folder: Path, clips: Sequence[tuple[int, str, Iterable[str]]]) -> Path:
    """Both tables for clips of (id, path, tags). The artist is the part of the path before the first hyphen."""
    header = ["clip_id", *MTAT_COLUMNS, "mp3_path"]
    rows = [[str(id_), *("1" if tag in set(tags) else "0" for tag in MTAT_COLUMNS), name] for id_, name, tags in clips]
    _quoted(folder / "annotations_final.csv", [header, *rows])
    info_header = listed(
        "clip_id, track_number, title, artist, album, url, segmentStart, segmentEnd, original_url, mp3_path"
    )
    info = [
        [
            str(id_),
            "1",
            "Aria",
            name[2:].split("-")[0],
            "Album",
            "http://he3.magnatune.com/x",
            "0",
            "29",
            "http://x",
            name,
        ]
        for id_, name, _ in clips
    ]
    _quoted(folder / "clip_info_final.csv", [list(info_header), *info])
    return folder


def _quoted(path: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    write(path, text.getvalue())


def mtat_tree(folder: Path) -> Path:
    """Ten clips with each of the usual tags in each of the 16 folders 0 to f, and one without in each folder."""
    top = MTAT_TOP50
    clips: list[tuple[int, str, Iterable[str]]] = []
    for number, name in enumerate("0123456789abcdef"):
        for index in range(10):
            tags = top[index * 5 : index * 5 + 5]
            clips.append((number * 100 + index, f"{name}/artist_{name}-album-{index:02d}-aria-0-29.mp3", tags))
        clips.append((number * 100 + 99, f"{name}/artist_{name}-album-99-aria-0-29.mp3", ["monks"]))
    for _, name, _ in clips:
        touch(folder / name)
    return mtat_tables(folder, clips)


# ---- FMA ----------------------------------------------------------------------------------------------------------

FMA_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "album": listed(
        """
        comments, date_created, date_released, engineer, favorites, id, information, listens, producer,
        tags, title, tracks, type
        """
    ),
    "artist": listed(
        """
        active_year_begin, active_year_end, associated_labels, bio, comments, date_created, favorites, id,
        latitude, location, longitude, members, name, related_projects, tags, website, wikipedia_page
        """
    ),
    "set": listed(
        """
        split, subset
        """
    ),
    "track": listed(
        """
        bit_rate, comments, composer, date_created, date_recorded, duration, favorites, genre_top, genres,
        genres_all, information, interest, language_code, license, listens, lyricist, number, publisher,
        tags, title
        """
    ),
}
"""The 52 columns of tracks.csv by the group in the row above them."""

FmaTrack = tuple[int, str, str, str, str]
"""Number, subset, split, genre_top, artist's number."""


def fma_table(path: Path, tracks: Iterable[FmaTrack]) -> Path:
    """tracks.csv with its three header rows; the artist's biography runs over two lines, as many do."""
    names = [(group, name) for group, names_of_group in FMA_COLUMNS.items() for name in names_of_group]
    rows = [
        ["", *(group for group, _ in names)],
        ["", *(name for _, name in names)],
        ["track_id", *("" for _ in names)],
    ]
    for number, subset, split, genre, artist in tracks:
        values = {
            ("set", "subset"): subset,
            ("set", "split"): split,
            ("track", "genre_top"): genre,
            ("track", "duration"): "168",
            ("artist", "id"): artist,
            ("artist", "name"): "AWOL",
            ("artist", "bio"): '<p>A Way Of Life,\n"A Collective" of Hip-Hop from New Jersey</p>',
        }
        rows.append([str(number), *(values.get(name, "") for name in names)])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return write(path, text.getvalue())


def fma_tree(folder: Path) -> Path:
    """Twelve tracks of the small set and six more of the medium set, their audio in fma_medium."""
    tracks: list[FmaTrack] = []
    for index in range(18):
        genre = ("Hip-Hop", "Rock", "Folk")[index % 3]
        split = ("training", "validation", "test")[index // 3 % 3]
        number = index * 700 + 2
        tracks.append((number, "small" if index < 12 else "medium", split, genre, str(index)))
        touch(folder / "fma_medium" / f"{number // 1000:03d}" / f"{number:06d}.mp3")
    tracks.append((90_000, "large", "training", "", "90"))
    fma_table(folder / "fma_metadata" / "tracks.csv", tracks)
    return folder


# ---- GTZAN --------------------------------------------------------------------------------------------------------


def gtzan_tree(folder: Path, suffix: str = ".wav", each: int = 10) -> Path:
    """The first excerpts of every genre, under genres/."""
    for genre in gtzan.GENRES:
        for index in range(each):
            touch(folder / "genres" / genre / f"{genre}.{index:05d}{suffix}", b"RIFF....WAVE")
    return folder


def gtzan_lists(folder: Path) -> Path:
    """The three lists: of every genre 5, 2 and 2 of the first ten excerpts."""
    parts = {"train": range(5), "valid": range(5, 7), "test": range(7, 9)}
    for split, numbers in parts.items():
        lines = [f"{genre}/{genre}.{index:05d}.wav" for genre in gtzan.GENRES for index in numbers]
        write(folder / f"gtzan_{split}_filtered.txt", "\n".join(lines) + "\n")
    return folder


# ---- MTG-Jamendo --------------------------------------------------------------------------------------------------

JAMENDO_HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"


def jamendo_table(path: Path, tracks: Iterable[tuple[int, int, Sequence[str]]]) -> Path:
    """A list of tracks of (number, artist's number, tags)."""
    lines = [JAMENDO_HEADER]
    for number, artist, tags in tracks:
        start = f"track_{number:07d}\tartist_{artist:06d}\talbum_000031\t{number % 100:02d}/{number}.mp3\t124.6"
        lines.append("\t".join([start, *tags]))
    return write(path, "\n".join(lines) + "\n")


def jamendo_tree(folder: Path) -> Path:
    """A checkout of the dataset's repository with split-0 of all tags, six tracks a split, and its audio."""
    for index, word in enumerate(("train", "validation", "test")):
        tracks = []
        for step in range(6):
            number = 214 + index * 1000 + step
            tags = ["genre---punkrock"] if step % 2 else ["genre---ambient", "instrument---piano", "mood/theme---calm"]
            tracks.append((number, number, tags))
            touch(folder / "raw_30s" / "audio" / f"{number % 100:02d}" / f"{number}.mp3")
        jamendo_table(folder / "data" / "splits" / "split-0" / f"autotagging-{word}.tsv", tracks)
    return folder


# ---- library ------------------------------------------------------------------------------------------------------


def library_of(folder: Path, tracks: Iterable[tuple[str, str | None, Sequence[str]]]) -> Path:
    """A database of tracks of (file name, artist, genres in the file); the content depends on the file name."""
    database = folder / "library.db"
    with Store(str(database), create=True) as store:
        for name, artist, genres in tracks:
            path = touch(folder / name)
            store.record_file(
                FoundFile(path, 5, 0), digest=Path(name).stem, tags=FileTags("mp3", None, artist, genres=tuple(genres))
            )
    return database


def library_tree(folder: Path) -> Path:
    """Two genres by six artists of three tracks each."""
    return library_of(
        folder,
        [
            (f"music/{artist}-{genre}-{index}.mp3", f"Artist {artist}{genre}", [genre])
            for artist in range(6)
            for genre in ("Rock", "Jazz")
            for index in range(3)
        ],
    )


TREES: Mapping[str, Tree] = {
    "folders": folders_tree,
    "library": library_tree,
    "manifest": manifest_tree,
    "mtat": mtat_tree,
    "fma": fma_tree,
    "gtzan": gtzan_tree,
    "jamendo": jamendo_tree,
    "music": music_tree,
}
