"""Files give their documents, whatever they are packed in, and what is wrong with them is told by file and line."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from groundup.core.errors import ConfigError, DataError
from groundup.corpus.config import JsonLines, Parquet, Text

POEM = "\ufeffOne\r\ntwo\n\n \nthree é\n\n\nfour"


def texts(config: Text | JsonLines | Parquet) -> list[str]:
    source = config.build()
    source.check()
    return [document.text for document in source.documents()]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def packed(path: Path, content: str) -> Path:
    data = content.encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        half = len(data) // 2
        data = zstandard.compress(data[:half]) + zstandard.compress(data[half:])  # two frames, as pzstd writes
    return write(path, data)


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.TXT", "a.txt.gz", "a.txt.zst"])
def test_a_text_file_is_one_document_or_its_paragraphs_or_its_lines(tmp_path: Path, name: str) -> None:
    path = str(packed(tmp_path / name, POEM))
    assert texts(Text(path=path)) == [POEM[1:]]
    assert texts(Text(path=path, document="paragraph")) == ["One\r\ntwo", "three é", "four"]
    assert texts(Text(path=path, document="line")) == ["One", "two", "three é", "four"]
    origins = [document.origin for document in Text(path=path, document="paragraph").build().documents()]
    assert origins == [{"file": path, "line": line} for line in (1, 5, 8)]


def test_files_folders_and_globs_give_each_file_once_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.txt", "a.txt", "deep/down/c.txt.gz", "deep/d.csv", "we[i]rd.txt"):
        packed(tmp_path / name, name)
    everything = ["a.txt", "b.txt", "deep/down/c.txt.gz", "we[i]rd.txt"]
    assert texts(Text(path=str(tmp_path))) == everything
    assert texts(Text(path=[str(tmp_path / "b.txt"), str(tmp_path / "*.txt")])) == ["a.txt", "b.txt", "we[i]rd.txt"]
    assert texts(Text(path=str(tmp_path / "we[i]rd.txt"))) == ["we[i]rd.txt"]
    assert texts(Text(path=str(tmp_path / "deep/*.csv"), suffixes=[".csv"])) == ["deep/d.csv"]
    monkeypatch.chdir(tmp_path)
    assert texts(Text(path="**/*.txt*")) == everything


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson.gz", "a.jsonl.zst"])
def test_json_lines_give_the_field_and_where_it_stood(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [{"text": "a\nb"}, {"text": "c", "more": 1}, {"text": None}]
    path = packed(tmp_path / name, "\n\n".join(map(json.dumps, rows)))
    assert texts(JsonLines(path=str(path))) == ["a\nb", "c", ""]
    assert [d.origin["line"] for d in JsonLines(path=str(path)).build().documents()] == [1, 3, 5]


def test_a_dotted_field_leads_into_inner_objects(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"body": {"plain": "x"}}')
    assert texts(JsonLines(path=str(path), field="body.plain")) == ["x"]


def test_parquet_gives_its_column_in_the_order_of_rows(tmp_path: Path) -> None:
    rows = [f"row {i}" for i in range(3000)] + [None]
    pq.write_table(pa.table({"body": rows, "id": range(3001)}), tmp_path / "a.parquet", row_group_size=700)
    documents = list(Parquet(path=str(tmp_path), column="body").build().documents())
    assert [document.text for document in documents] == [*rows[:-1], ""]
    assert documents[1234].origin == {"file": str(tmp_path / "a.parquet"), "row": 1234}


@pytest.mark.parametrize(
    ("content", "unit", "line"),
    [(b"ok\nok\nbad \xff\n", "file", 3), (b"a\n\nb\n\xe9", "paragraph", 4), (b"\xc3", "line", 1)],
)
def test_invalid_utf8_is_named_by_file_and_line(tmp_path: Path, content: bytes, unit: str, line: int) -> None:
    path = write(tmp_path / "bad.txt", content)
    with pytest.raises(DataError, match=rf"bad\.txt:{line}: invalid UTF-8 \(byte 0x.*iconv"):
        texts(Text(path=str(path), document=unit))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", r"a\.jsonl:2: is not JSON"),
        ('"text"', r"a\.jsonl:2: is no object"),
        ('{"txt": "x"}', r"a\.jsonl:2: has no field text; .*did you mean txt"),
        ('{"text": 5}', r"a\.jsonl:2: field text is no text but int"),
        (b'{"text": "\xff"}', r"a\.jsonl:2: invalid UTF-8"),
        ("[" * 100_000, r"a\.jsonl:2: is not JSON"),
    ],
)
def test_a_bad_line_of_json_is_named(tmp_path: Path, line: str | bytes, says: str) -> None:
    content = b'{"text": "fine"}\n' + (line if isinstance(line, bytes) else line.encode())
    path = write(tmp_path / "a.jsonl", content)
    with pytest.raises(DataError, match=says):
        texts(JsonLines(path=str(path)))


def test_a_wrong_field_is_found_by_the_check_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"body": "x"}')
    with pytest.raises(DataError, match="has no field text"):
        JsonLines(path=str(path)).build().check()


def test_bad_parquet_is_named(tmp_path: Path) -> None:
    good = tmp_path / "good.parquet"
    pq.write_table(pa.table({"body": ["some text"] * 5000, "number": list(range(5000))}), good)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "none.parquet")
    content = bytearray(good.read_bytes())
    content[4:60] = bytes(56)
    write(tmp_path / "flipped.parquet", bytes(content))
    write(tmp_path / "not.parquet", "text")
    for name, column, says in (
        ("good", "bdoy", "has no column bdoy; did you mean body"),
        ("good", "number", "column number is no text but int64"),
        ("none", "text", "holds no rows"),
        ("flipped", "body", "is damaged near row 0"),
        ("not", "text", "is no Parquet file"),
    ):
        with pytest.raises(DataError, match=rf"{name}\.parquet: {says}"):
            texts(Parquet(path=str(tmp_path / f"{name}.parquet"), column=column))


def test_a_wrong_place_is_named_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "corpus.txt", "x")
    write(tmp_path / "lines.jsonl", "{}")
    write(tmp_path / "scan.pdf", "x")
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "folder/x.bin", "x")
    for path, says in (
        ("corpsu.txt", r"corpsu\.txt: is missing; did you mean corpus\.txt"),
        ("nowhere/corpus.txt", "is missing"),
        ("*.text", "matches no file"),
        ("lines.jsonl", r"ends in \.jsonl; .*choose source=\[jsonl\]"),
        ("scan.pdf", r"ends in \.pdf; read here: \.txt.* rename or convert"),
        ("empty.txt", r"empty\.txt: holds no text \(0 bytes\)"),
        ("folder", r"folder: no file below it ends in \.txt"),
    ):
        with pytest.raises(DataError, match=says):
            Text(path=str(tmp_path / path)).build().check()


@pytest.mark.parametrize("path", ["", [], 5, ["a", 5], {"a": "b"}])
def test_a_path_is_text_or_a_list_of_it(path: object) -> None:
    for kind in (Text, JsonLines, Parquet):
        with pytest.raises(ConfigError, match=r"path=.* is neither a path nor a list"):
            kind(path=path)


def test_damaged_packing_is_named(tmp_path: Path) -> None:
    content = gzip.compress(os.urandom(90_000).hex().encode())
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(os.urandom(90_000).hex().encode())
    flipped = bytearray(content)
    flipped[5000] ^= 1
    for name, data in (
        ("a.txt.gz", content[:-9000]),
        ("b.txt.gz", b"no gzip"),
        ("c.txt.gz", bytes(flipped)),
        ("d.txt.zst", b"no zstandard"),
        ("e.txt.zst", frame[:2000] + b"x" * 90 + frame[2090:]),
        ("f.txt.zst", frame[:-2000]),
        ("g.txt.zst", frame + frame[:-1]),
    ):
        path = write(tmp_path / name, data)
        with pytest.raises(DataError, match=rf"{name}: is damaged"):
            texts(Text(path=str(path), document="line"))


PROGRAM = """
import os, sys
import groundup.corpus.text
from groundup.core.errors import DataError
from groundup.corpus.config import Text
os.setuid(65534)
try:
    Text(path=sys.argv[1]).build().check()
except DataError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can become another user")
def test_a_file_of_another_user_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "private.txt", "secret")
    path.chmod(0o600)
    for folder in [tmp_path, *tmp_path.parents][:-2]:
        folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True)
    assert "private.txt: cannot be read (Permission denied)" in done.stdout


def test_a_state_changes_with_the_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one")
    source = Text(path=str(tmp_path)).build()
    before = source.stamp()
    assert before == source.stamp()
    assert (before["files"], before["bytes"]) == (1, 3)
    write(path, "four")
    between = source.stamp()
    write(tmp_path / "b.txt", "")
    assert len({str(state) for state in (before, between, source.stamp())}) == 3
