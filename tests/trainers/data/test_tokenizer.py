"""Do ids give the text back, and can no document forge a separator?"""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardwright.trainers.data.tokenizer import ByteTokenizer, FileTokenizer, train_bpe, vocabulary
from shardwright.trainers.options import DataOptions

SOURCE = Path(pytest.__file__).read_text()
TEXTS = [SOURCE[start : start + 400] for start in range(0, len(SOURCE), 400)]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    path.write_text(train_bpe(TEXTS, 300))
    return path


plain = st.text().filter(lambda text: "\0" not in text)


@given(text=plain)
def test_bytes_give_the_text_back(text: str) -> None:
    tokenizer = ByteTokenizer()
    (ids,) = tokenizer.encode([text.encode(errors="replace")])
    assert tokenizer.separator not in ids
    assert tokenizer.decode([*ids, 0]) == text.encode(errors="replace").decode()


@given(text=st.one_of(plain, st.just("a <|endoftext|> b")))
def test_bpe_gives_the_text_back_and_forges_no_separator(bpe: Path, text: str) -> None:
    tokenizer = FileTokenizer(bpe)
    text = text.encode(errors="replace").decode()
    (ids,) = tokenizer.encode([text.encode()])
    assert tokenizer.separator == 0
    assert 0 not in ids
    assert all(id < tokenizer.vocab_size for id in ids)
    assert tokenizer.decode([*ids, 0]) == text


def test_bpe_is_shorter_than_bytes(bpe: Path) -> None:
    (ids,) = FileTokenizer(bpe).encode([SOURCE.encode()])
    assert len(ids) < 0.9 * len(SOURCE.encode())


def test_bpe_is_the_same_in_every_process(bpe: Path) -> None:
    program = (
        "import pytest; from pathlib import Path; from shardwright.trainers.data.tokenizer import train_bpe\n"
        "s = Path(pytest.__file__).read_text()\n"
        "print(train_bpe([s[i : i + 400] for i in range(0, len(s), 400)], 300), end='')"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == bpe.read_text()


def test_the_vocabulary_is_told_without_the_data(bpe: Path) -> None:
    assert vocabulary(DataOptions()) == 256
    assert vocabulary(DataOptions(tokenizer="bpe", vocab_size=999)) == 999
    assert vocabulary(DataOptions(tokenizer=str(bpe))) == FileTokenizer(bpe).vocab_size == 300
    assert vocabulary(DataOptions(name="arrow", path="x")) is None
    assert vocabulary(DataOptions(name="my.module:data")) is None


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match=r"t\.json' is not a readable tokenizer\.json"):
        vocabulary(DataOptions(tokenizer=str(tmp_path / "t.json")))
