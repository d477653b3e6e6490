"""How does text become packed tokens, once? Files in, one folder of Arrow shards out, found again by a hash.

Invariant: the folder's name is the hash of everything its content depends on (files, tokenizer, held-out share,
format), and it gets that name by one rename when all is in it. Work that is interrupted stays in `NAME.partial`;
its finished shards are taken over by the next start.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..options import DataOptions
from .documents import Document, Span, fingerprint, plan_parts, read_documents
from .part import SIDES, Work, read_counts, shard_name
from .shards import TokenStream
from .sources import Progress, Source, check_source, is_packed, read_source, source_identity, write_aside
from .tokenizer import Tokenizer, open_tokenizer, train_bpe, vocabulary
from .workers import pack_parts

FORMAT = 1  # of the packed folder; a change of what is written must change it


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class PackedText:
    """A published folder of packed tokens and what its manifest says."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """Hash of all that the tokens depend on."""
        return str(self.manifest["identity"])

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""
        return int(self.manifest["vocab_size"])

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes of held-out text for each of its tokens, separators among them; None where no text is known."""
        tokens, size = self.manifest["tokens"]["held_out"], self.manifest["text_bytes"]["held_out"]
        return size / tokens if tokens and size else None

    @property
    def summary(self) -> dict[str, Any]:
        """The manifest without its lists, for people."""
        keys = ("tokenizer", "vocab_size", "tokens", "documents", "unigram_entropy", "identity")
        counted = {"files": len(self.manifest["files"]), "folder": str(self.folder)}
        return (
            dict(self.manifest["source"])
            | counted
            | {key: self.manifest[key] for key in keys}
            | {"bytes_per_token": self.bytes_per_token}
        )

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """What encodes and decodes; None for pre-tokenized data without its tokenizer.json."""
        if self.manifest["tokenizer"] == "none":
            return None
        path = self.folder / "tokenizer.json"
        return open_tokenizer(path if path.exists() else None, self.vocab_size)

    def stream(self, side: str) -> TokenStream:
        """The tokens of a side, "train" or "held_out"."""
        return TokenStream([self.folder / shard["name"] for shard in self.manifest["shards"][side]])


def cache_folder(options: DataOptions) -> Path:
    """Where packed text is kept: data.cache, else $XDG_CACHE_HOME/shardwright, else ~/.cache/shardwright."""
    if options.cache:
        return Path(options.cache).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "shardwright"


def prepare(options: DataOptions, progress: Progress = silent, workers: int | None = None) -> PackedText:
    """The packed text of [data], packed now unless that was done before.

    workers: processes that pack at the same time; by default one for each CPU this process may use.

    Raises:
        ValueError: [data] is wrong, a row cannot be read, the split leaves a side empty, or there is nothing to pack.
    """
    check_source(options)
    if not is_packed(options):
        raise ValueError(f"data.name = {options.name!r} gives samples; there is nothing to pack")
    cache = cache_folder(options) / "text"
    source = read_source(options, cache, progress)
    identity = _identity(options, source)
    folder = cache / f"{options.name}-{identity[:16]}"
    found = reopen(folder)
    if found is None:
        with _lock(cache / f"{folder.name}.lock"):
            found = reopen(folder) or _pack(options, source, identity, folder, progress, workers)
    return found


def _identity(options: DataOptions, source: Source) -> str:
    made_of: dict[str, Any] = {"format": FORMAT, "kind": options.name, "files": source_identity(source)}
    made_of |= {"field": options.field if options.name not in ("stdlib", "text") else "", "held_out": options.held_out}
    if options.tokenizer == "bpe":
        made_of |= {"vocab_size": options.vocab_size, "tokenizers": version("tokenizers")}
    if options.tokenizer not in ("bytes", "bpe"):
        made_of["tokenizer"] = hashlib.sha256(Path(options.tokenizer).expanduser().read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def reopen(folder: Path) -> PackedText | None:
    """The folder if it is published and every shard has the size it was published with."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        sizes = {shard["name"]: shard["bytes"] for side in SIDES for shard in manifest["shards"][side]}
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, ValueError):
        return None
    return PackedText(folder, manifest) if whole else None


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a file's lock, so that two runs that need the same text pack it once; the kernel drops it with us."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pack(
    options: DataOptions, source: Source, identity: str, folder: Path, progress: Progress, workers: int | None
) -> PackedText:
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for leftover in partial.rglob("*.aside"):  # of a process that was killed; nobody else writes while we hold the lock
        leftover.unlink()
    parts = plan_parts(source.kind, source.paths)
    work = Work(str(partial), source.kind, options.field, _threshold(options, source, parts), None, 0)
    work = _with_tokenizer(options, source, work, parts, progress)
    results = pack_parts(work, parts, workers or len(os.sched_getaffinity(0)), progress)
    _check_unchanged(source)
    manifest = _manifest(options, source, identity, work, results)
    write_aside(partial / "manifest.json", json.dumps(manifest, indent=1).encode())
    if folder.exists():  # published once, damaged since
        shutil.rmtree(folder)
    partial.replace(folder)
    shutil.rmtree(folder / "parts")
    return PackedText(folder, manifest)


def _documents(source: Source, field: str, parts: list[list[Span]]) -> Iterator[Document]:
    return (document for part in parts for document in read_documents(source.kind, field, part))


def _threshold(options: DataOptions, source: Source, parts: list[list[Span]]) -> int:
    """Documents whose fingerprint is below it are held out.

    It is held_out x 2^64; but where no document falls below that, the one with the smallest fingerprint is held out.

    Raises:
        ValueError: there is no text, or one document that cannot be split.
    """
    threshold, smallest, several = round(options.held_out * 2**64), 2**64, False
    for document in _documents(source, options.field, parts):
        several |= smallest < 2**64 and fingerprint(document.content) != smallest
        smallest = min(smallest, fingerprint(document.content))
        if not threshold or (several and smallest < threshold):
            return threshold
    if smallest == 2**64:
        raise ValueError(f"data.name = {options.name!r}, data.path = {options.path!r}: the files hold no text")
    if not several:
        raise ValueError(
            "the data is one document, or copies of one, which cannot be split; give more, or data.held_out = 0"
        )
    return smallest + 1


def _with_tokenizer(
    options: DataOptions, source: Source, work: Work, parts: list[list[Span]], progress: Progress
) -> Work:
    """The work with the tokenizer's file, trained here if need be, and the number of ids."""
    path = Path(work.folder) / "tokenizer.json"
    if options.tokenizer == "bpe" and not path.exists():
        texts = _training_texts(source, work, parts, progress)
        write_aside(path, train_bpe(texts, options.vocab_size).encode())
    elif options.tokenizer not in ("bytes", "bpe"):
        write_aside(path, Path(options.tokenizer).expanduser().read_bytes())
    size = vocabulary(options)
    if size is None:
        size = 1 + max(int(np.max(document.content)) for document in _documents(source, work.field, parts))
    return replace(work, tokenizer=str(path) if path.exists() else None, vocab_size=size)


def _training_texts(source: Source, work: Work, parts: list[list[Span]], progress: Progress) -> Iterator[str]:
    done = 0
    for document in _documents(source, work.field, parts):
        if fingerprint(document.content) >= work.threshold:
            yield bytes(document.content).decode("utf-8", errors="replace")
        done += len(document.content)
        progress("tokenizer", done, source.bytes)


def _check_unchanged(source: Source) -> None:
    for file, path in zip(source.files, source.paths, strict=True):
        if path.stat().st_size != file.bytes:
            raise ValueError(f"{path} changed while it was packed; start again when it is complete")


def _manifest(
    options: DataOptions, source: Source, identity: str, work: Work, results: list[dict[str, Any]]
) -> dict[str, Any]:
    """What is recorded beside the shards.

    Raises:
        ValueError: no document is left to train on.
    """
    totals = {what: {side: sum(r[what][side] for r in results) for side in SIDES} for what in results[0]}
    if not totals["tokens"]["train"]:
        raise ValueError(
            f"data.held_out = {options.held_out} of {totals['documents']['held_out']} documents left none to train on"
        )
    counts = sum(read_counts(work, number) for number in range(len(results)))
    names = {side: [shard_name(side, n) for n, r in enumerate(results) if r["tokens"][side]] for side in SIDES}
    return {
        "format": FORMAT,
        "identity": identity,
        "source": {"kind": source.kind, "path": options.path, "bytes": source.bytes},
        "files": [asdict(file) for file in source.files],
        "tokenizer": "none" if options.name == "arrow" and not work.tokenizer else options.tokenizer,
        "vocab_size": work.vocab_size,
        "held_out": {"share": options.held_out, "below_fingerprint": work.threshold},
        **totals,
        "unigram_entropy": _entropy(counts),
        "shards": {side: [_shard(work, name) for name in found] for side, found in names.items()},
    }


def _shard(work: Work, name: str) -> dict[str, Any]:
    return {"name": name, "bytes": (Path(work.folder) / name).stat().st_size}


def _entropy(counts: Any) -> float:
    """Entropy of the tokens drawn one by one, nats per token."""
    shares = counts[counts > 0] / counts.sum()
    return math.fsum(-shares * np.log(shares))
