"""Are wrong [data] sections refused before anything is read, and is a source's content what identifies it?"""

import os
import sys
import time
from pathlib import Path

import pytest
from shardwright.trainers.data.sources import check_source, find_files, read_source, source_identity
from shardwright.trainers.options import DataOptions


def silent(what: str, done: int, total: int) -> None:
    pass


def identity(options: DataOptions, cache: Path) -> str:
    return source_identity(read_source(options, cache, silent))


def aged(path: Path, content: bytes, when: float = 1e9) -> Path:
    """Written long ago, so that its hash is remembered."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (when, when))
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "stdlbi"}, "did you mean 'stdlib'"),
        ({"name": "text"}, "needs data.path"),
        ({"name": "text", "path": "nowhere.txt"}, "there is no such file or folder"),
        ({"name": "text", "path": "none*.txt"}, "the glob matches no file"),
        ({"name": "jsonl", "path": "folder"}, r"holds no file of the form \*.jsonl"),
        ({"name": "stdlib", "path": "folder"}, "is not read by data.name = 'stdlib'"),
        ({"tokenizer": "bpee"}, "neither 'bytes' nor 'bpe' nor a file"),
        ({"name": "arrow", "path": "a.arrow", "tokenizer": "bpe"}, "cannot be trained on arrow"),
        ({"name": "my.module:"}, "package.module:object"),
        ({"name": "my module:data"}, "package.module:object"),
        ({"name": "my.module:data", "path": "folder"}, "data set of your own"),
        ({"name": "my.module:data", "sequence_length": 64}, "data.sequence_length = 64 is not read: my.module:data"),
        ({"name": "digit"}, "did you mean 'digits'"),
        (
            {"name": "digits", "tokenizer": "bpe"},
            "data.tokenizer = 'bpe' is not read: digits holds samples and no text",
        ),
        ({"name": "digits", "held_out": 0.1}, "data.held_out = 0.1 is not read"),
    ],
)
def test_refused(fields: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.arrow").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        check_source(DataOptions(**fields))


def test_accepted_without_reading(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_text("this is no parquet")
    check_source(DataOptions(name="parquet", path=str(tmp_path)))
    check_source(DataOptions(name="nowhere.module:data"))
    check_source(DataOptions())
    check_source(DataOptions(name="digits", cache="elsewhere"))  # a site's cache is for whatever is packed


def test_a_folder_is_read_below_and_hidden_files_are_not(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.txt", ".hidden", "a/.git/d.txt"):
        aged(tmp_path / name, b"x")
    assert [name for name, _ in find_files(DataOptions(name="text", path=str(tmp_path)))] == ["a/c.txt", "b.txt"]


def test_a_glob_goes_below_and_names_are_relative(tmp_path: Path) -> None:
    for name in ("deep/x/1.jsonl", "deep/y/2.jsonl", "deep/y/3.txt"):
        aged(tmp_path / name, b"x")
    found = find_files(DataOptions(name="jsonl", path=f"{tmp_path}/**/*.jsonl"))
    assert [name for name, _ in found] == ["x/1.jsonl", "y/2.jsonl"]


def test_the_standard_library_is_its_own_modules_without_tests() -> None:
    names = [name for name, _ in find_files(DataOptions())]
    assert {"os.py", "json/decoder.py"} <= set(names)
    assert names == sorted(names)
    assert not any({"test", "tests", "site-packages"} & set(Path(name).parts) for name in names)


def test_identity_is_content_and_not_place_or_time(tmp_path: Path) -> None:
    here = aged(tmp_path / "here" / "a.txt", b"same")
    there = aged(tmp_path / "there" / "a.txt", b"same", when=1.1e9)
    options = [DataOptions(name="text", path=str(path.parent)) for path in (here, there)]
    assert identity(options[0], tmp_path / "c") == identity(options[1], tmp_path / "c")
    aged(there, b"diff")
    assert identity(options[0], tmp_path / "c") != identity(options[1], tmp_path / "c")


def test_a_file_with_known_size_and_time_is_not_read_again(tmp_path: Path) -> None:
    path = aged(tmp_path / "a.txt", b"first")
    options = DataOptions(name="text", path=str(path))
    first = identity(options, tmp_path / "cache")
    aged(path, b"other")  # same size, same time: only reading it could tell
    assert identity(options, tmp_path / "cache") == first
    aged(path, b"other", when=1e9 + 1)
    assert identity(options, tmp_path / "cache") != first


def test_a_fresh_file_is_always_read(tmp_path: Path) -> None:
    """Two writes within one tick of the file system's clock leave the same time."""
    now = time.time()
    path = aged(tmp_path / "a.txt", b"first", when=now)
    options = DataOptions(name="text", path=str(path))
    first = identity(options, tmp_path / "cache")
    aged(path, b"other", when=now)
    assert identity(options, tmp_path / "cache") != first


def test_a_torn_memory_is_forgotten(tmp_path: Path) -> None:
    options = DataOptions(name="text", path=str(aged(tmp_path / "a.txt", b"first")))
    first = identity(options, tmp_path / "cache")
    (memory,) = (tmp_path / "cache" / "seen").iterdir()
    memory.write_text('{"half')
    assert identity(options, tmp_path / "cache") == first


def test_this_interpreter_is_the_source() -> None:
    assert dict(find_files(DataOptions()))["os.py"].samefile(sys.modules["os"].__file__ or "")
