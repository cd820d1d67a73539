"""The tree of genres: the bundled one, and a user's changes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from musictagger.errors import BadRequestError
from musictagger.models import vocabulary
from musictagger.models.published.catalogue import entry
from musictagger.models.vocabulary import known_words
from musictagger.scores.genretree import BUNDLED_FILE, GenreTree, genre_key, load_tree, read_allowed

TREE = load_tree()
GENRES = sorted({name for name, category in known_words().values() if category == "genre"})


def test_every_genre_of_the_vocabulary_is_in_the_tree_under_its_own_name() -> None:
    # Models distinguish Electronica from Electronic; nobody wants both in a file.
    expected = {name: name for name in GENRES} | {"Electronica": "Electronic"}
    assert {name: TREE.canonical(name) for name in GENRES} == expected
    assert set(expected.values()) <= set(TREE.above)


def test_every_spelling_of_a_genre_in_the_vocabulary_means_it_in_the_tree() -> None:
    tables = tomllib.loads(Path(vocabulary.__file__).with_name("tags.toml").read_text(encoding="utf-8"))
    words = {word: name for name, synonyms in tables["genre"].items() for word in synonyms}
    assert {word: TREE.canonical(word) for word in words} == words


USUAL = (
    # GTZAN, FMA
    *("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock", "Easy Listening"),
    *("Electronic", "Experimental", "Folk", "Hip-Hop", "Instrumental", "International", "Old-Time / Historic"),
    *("Soul-RnB", "Spoken", "Chiptune", "Post-Rock", "Singer-Songwriter", "Trip-Hop", "Lo-Fi", "Drum & Bass"),
    # What files hold
    *("Hip Hop", "Rap/Hip-Hop", "Hip-Hop/Rap", "RnB", "R&B/Soul", "DnB", "Drum 'n' Bass", "Synth-Pop", "Rock'n'Roll"),
    *("Soundtrack", "OST", "Audiobook", "Children's Music", "Christmas", "Schlager", "Singer/Songwriter", "World"),
    *("Death Metal", "Alt. Rock", "Psychedelic Trance", "New Wave", "Ska", "Dub", "Opera", "Comedy", "Goth"),
)


@pytest.mark.parametrize("word", sorted({*USUAL, *entry("musicnn-msd").outputs, *entry("musicnn-mtt").outputs}))
def test_the_genres_of_common_data_sets_and_files_are_known(word: str) -> None:
    other = known_words().get(genre_key(word), ("", "other"))[1] != "genre" and genre_key(word) in known_words()
    assert other or genre_key(word) in TREE.names


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("Hip Hop", "Hip-Hop"), ("hiphop", "Hip-Hop"), ("Rap/Hip-Hop", "Hip-Hop"), ("RnB", "R&B"), ("R and B", "R&B"),
        ("r & b", "R&B"), ("Drum and Bass", "Drum & Bass"), ("DnB", "Drum & Bass"), ("D&B", "Drum & Bass"),
        ("Synth-Pop", "Synthpop"), ("rock and roll", "Rock & Roll"), ("Rock 'n' Roll", "Rock & Roll"),
        ("forro", "Forró"), ("FORRÓ", "Forró"), ("be-bop", "Bebop"), ("Oi", "Oi!"), ("Ｊａｚｚ", "Jazz"),
        ("Gqom-ish", "Gqom-ish"), ("", ""), ("???", "???"),
    ],
)  # fmt: skip
def test_spellings_of_a_genre(word: str, name: str) -> None:
    assert TREE.canonical(word) == name


@pytest.mark.parametrize(("one", "other"), [("हिंदी", "हद"), ("ガ", "カ"), ("!!!", "???"), ("Rap", "Trap")])
def test_different_names_have_different_keys(one: str, other: str) -> None:
    assert genre_key(one) != genre_key(other)


@pytest.mark.parametrize(
    ("name", "implied"),
    [
        ("Indie Rock", {"Rock", "Indie"}), ("indie-rock", {"Rock", "Indie"}), ("Deep House", {"House", "Electronic"}),
        ("Grunge", {"Alternative Rock", "Alternative", "Rock"}), ("Techno", {"Electronic"}), ("Rap", {"Hip-Hop"}),
        ("Heavy Metal", {"Metal"}), ("Punk Rock", {"Punk"}), ("Soul", {"Soul/R&B"}), ("World", {"International"}),
        # Each stands alone: see docs/decisions/0005-genres.md.
        *((name, set()) for name in ("Metal", "Punk", "Ambient", "Emo", "Dancehall", "New Wave", "Rock", "Nonsense")),
    ],
)  # fmt: skip
def test_a_genre_implies_its_ancestors(name: str, implied: set[str]) -> None:
    assert TREE.ancestors(name) == implied


def own_names() -> list[str]:
    children = tomllib.loads(BUNDLED_FILE.read_text(encoding="utf-8"))["children"]
    return [name for parent, under in children.items() for name in (parent, *under)]


def test_no_two_names_differ_by_case_accents_or_punctuation_only() -> None:
    names = set(own_names())
    assert len({genre_key(name) for name in names}) == len(names)
    assert 150 <= len(names) <= 250
    assert set(TREE.above) == names


def test_a_genre_whose_name_ends_like_another_is_under_it() -> None:
    """Every genre with Pop in its name implies Pop, except for unrelated ones."""
    another = {"Electro Swing", "New Age", "Post-Hardcore", "Post-Punk", "Punk Rock"}
    for name in set(own_names()) - another:
        last = name.replace("-", " ").rpartition(" ")[2]
        if last != name and last in TREE.above:
            assert last in TREE.ancestors(name), name


def test_lists_are_in_order() -> None:
    tables = tomllib.loads(BUNDLED_FILE.read_text(encoding="utf-8"))
    for under in (*tables["children"].values(), list(tables["aliases"])):
        assert under == sorted(under, key=str.casefold)
        assert len(set(under)) == len(under)


def test_no_genre_implies_itself_and_implication_is_transitive() -> None:
    for name, above in TREE.above.items():
        assert name not in above
        assert all(TREE.above[one] <= above for one in above)


def user_tree(folder: Path, text: str) -> GenreTree:
    path = folder / "genres.toml"
    path.write_text(text, encoding="utf-8")
    return load_tree(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"Hip Hop": "Hip-Hop", "Rock": "Rock"}),
        # A name of the user's own.
        ('[aliases]\n"Hip-Hop" = "Hip Hop"', {"hiphop": "Hip Hop", "Rap/Hip-Hop": "Hip Hop", "Rap": "Rap"}),
        ('[aliases]\n"hip hop" = "Urban"', {"hiphop": "Urban", "Rap/Hip-Hop": "Urban", "urban": "Urban"}),
        ('[aliases]\n"DnB" = "D\'n\'B"', {"Drum & Bass": "D'n'B", "drum n bass": "D'n'B"}),
        # Chains of merged genres.
        ('[aliases]\n"Rap" = "hip hop"', {"Rap": "Hip-Hop"}),
        ('[aliases]\n"Rap" = "Hip-Hop"\n"Hip-Hop" = "Beats"', {"Rap": "Beats", "HipHop": "Beats"}),
        ('[aliases]\n"Indie" = "Alt"\n"Alternative" = "Alt"', {"Indie": "Alt", "alternative": "Alt", "ALT": "Alt"}),
        # An additional spelling.
        ('[aliases]\n"Heavy Music" = "Metal"', {"heavy music": "Metal"}),
        ('[aliases]\n"Sea Shanties" = "Sea Shanties"', {"sea shanties": "Sea Shanties"}),
        ('\ufeff[parents]\n"Sea Shanties" = "Folk"', {"SEA SHANTIES": "Sea Shanties"}),
    ],
)
def test_a_user_can_rename(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    tree = user_tree(tmp_path, text)
    assert {name: tree.canonical(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[parents]\n"Metal" = "Rock"', {"Metal": {"Rock"}, "Doom Metal": {"Metal", "Rock"}}),
        ('[parents]\n"Shoegaze" = ["Indie Rock", "Emo"]', {"Shoegaze": {"Indie Rock", "Indie", "Rock", "Emo"}}),
        ('[parents]\n"House" = ""', {"House": set(), "Deep House": {"House"}}),
        ('[parents]\n"House" = []', {"House": set()}),
        ('[parents]\n"Urban" = ""\n"Hip-Hop" = "urban"', {"Rap": {"Hip-Hop", "Urban"}}),
        ('[parents]\n"Hip-Hop" = "Urban"\n"Urban" = ""', {"Rap": {"Hip-Hop", "Urban"}}),
        # Names come first, and a genre keeps its place under its new one.
        ('[aliases]\n"Hip-Hop" = "Beats"', {"Rap": {"Beats"}, "Beats": set()}),
        ('[aliases]\n"Deep House" = "Deep"', {"Deep": {"House", "Electronic"}}),
        ('[aliases]\n"Rock" = "Rawk"\n[parents]\n"Ska" = "rawk"\n"Emo" = "Rock"', {"Ska": {"Rawk"}, "Emo": {"Rawk"}}),
        # What is merged brings its children, never its parents.
        ('[aliases]\n"Rap" = "Hip-Hop"', {"Gangsta Rap": {"Hip-Hop"}, "Hip-Hop": set()}),
        ('[aliases]\n"Punk Rock" = "Rock"', {"Rock": set(), "Grunge": {"Rock", "Alternative", "Alternative Rock"}}),
        ('[aliases]\n"Synthwave" = "Electronic"', {"Electronic": set(), "House": {"Electronic"}}),
        ('[aliases]\n"Punk Rock" = "Rock"\n"Rock" = "Rawk"', {"Rawk": set(), "Indie Rock": {"Rawk", "Indie"}}),
    ],
)  # fmt: skip
def test_a_user_can_move(tmp_path: Path, text: str, expected: dict[str, set[str]]) -> None:
    tree = user_tree(tmp_path, text)
    assert {name: tree.ancestors(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[aliases", "cannot be read as TOML"),
        ("[alias]", r"unknown table 'alias'; did you mean 'aliases'\?"),
        ("[zzz]", r"unknown table 'zzz'; known are: aliases, parents"),
        ("parents = 3", r"parents must be a table"),
        ('[aliases]\n"Rap" = 3', "Rap: 3 is not the name of a genre"),
        ('[aliases]\n"Rap" = " "', "Rap: ' ' is not the name of a genre"),
        ('[aliases]\n"Rap" = "a\\u0000b"', "is not the name of a genre"),
        ('[aliases]\n"" = "Rap"', "aliases: '' is not the name of a genre"),
        ('[aliases]\n"Hip-Hop" = "A"\n"hip hop" = "B"', "'Hip-Hop' and 'hip hop' are the same genre"),
        ('[aliases]\n"Rap" = "Trap"\n"Trap" = "Rap"', "'Rap' = 'Trap' = 'Rap' leads in a circle"),
        ('[parents]\n"Rock" = 3', "Rock: 3 is not the name of a genre"),
        ('[parents]\n"Rock" = ["Pop", 3]', "Rock: 3 is not the name of a genre"),
        ('[parents]\n"Indie Rok" = "Rock"', "unknown genre 'Indie Rok'; did you mean 'Indie Rock'?"),
        ('[parents]\n"Metal" = "Rok"', "unknown genre 'Rok' as a parent; did you mean 'Rock'?"),
        ('[parents]\n"Metal" = "Zzyzx"', 'unknown genre \'Zzyzx\' as a parent; to add it, write "Zzyzx" = ""'),
        ('[parents]\n"Metal" = "Metal"', "'Metal' under 'Metal' leads in a circle"),
        ('[parents]\n"Electronic" = "Deep House"', "under .* leads in a circle"),
        ('[parents]\n"DnB" = ""\n"Drum & Bass" = ""', "'DnB' and 'Drum & Bass' are the same genre"),
    ],
)
def test_an_invalid_file_is_refused_with_its_path(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(BadRequestError, match=reason) as caught:
        user_tree(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'genres.toml'}: ")


def test_a_name_that_only_looks_like_a_typo_can_be_added(tmp_path: Path) -> None:
    tree = user_tree(tmp_path, '[aliases]\n"Indie Rok" = "Indie Rok"\n[parents]\n"Indie Rok" = "Rock"')
    assert tree.ancestors("indie rok") == {"Rock"}


def test_a_folder_instead_of_a_file_of_genres_is_refused(tmp_path: Path) -> None:
    for read in (load_tree, read_allowed):
        with pytest.raises(BadRequestError, match="cannot be read"):
            read(tmp_path)


def test_a_tree_is_read_once_and_again_when_its_file_changes(tmp_path: Path) -> None:
    assert load_tree(tmp_path / "none.toml") is load_tree()
    tree = user_tree(tmp_path, '[aliases]\n"Rap" = "A"')
    assert load_tree(tmp_path / "genres.toml") is tree
    assert user_tree(tmp_path, '[aliases]\n"Rap" = "Bee"').canonical("rap") == "Bee"


def test_a_list_of_allowed_genres(tmp_path: Path) -> None:
    path = tmp_path / "allowed.txt"
    path.write_text("\ufeff# mine\nRock\n\n  Hip Hop \t# not Rap\nC#-Pop\n#Jazz\n", encoding="utf-8")
    assert read_allowed(path) == {"Rock", "Hip Hop", "C#-Pop"}


@pytest.mark.parametrize("content", [b"", b"# Rock\n\n", b"\xff\xfe\x00", None])
def test_a_list_without_genres_is_refused_with_its_path(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "allowed.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadRequestError) as caught:
        read_allowed(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_file_in_the_documentation_works_as_described(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "genres.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    tree = user_tree(tmp_path, block)
    names = {"hiphop": "Hip Hop", "Synthwave": "Electronic", "idol pop": "J-Pop"}
    assert {name: tree.canonical(name) for name in names} == names
    above = {"Metal": {"Rock"}, "House": set(), "R&B": {"Urban"}, "Gangsta Rap": {"Rap", "Hip Hop"}}
    assert {name: tree.ancestors(name) for name in above} == above
    assert "Alternative" in tree.ancestors("Shoegaze")
