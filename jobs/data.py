"""What data does a run read? What its first attempt packed; data.json keeps what that was.

So text that changes while a run is stopped does not change the run, and an attempt need not look at the sources again.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..trainers.data.dataset import Data, open_data, packed_data, slot_data
from ..trainers.data.pack import reopen
from ..trainers.options import DataOptions
from .run_folder import RunFolder, publish


def open_run_data(run: RunFolder, options: DataOptions, kind: str, slots: int) -> Data:
    """The data that a run began with, unless its job asks for other data now.

    Args:
        kind: what the entry reads: "tokens", "samples" or "experience".
        slots: samples of a global batch, which are what "experience" consists of.

    Raises:
        ValueError: what was read is gone and the same sources give other content now; or as open_data says.
    """
    if kind == "experience":
        return slot_data(slots)
    known = _known(run)
    if known.get("asked") != asdict(options):
        return open_data(options, kind)
    folder = known["summary"].get("folder")
    if folder and (packed := reopen(Path(folder))):
        return packed_data(packed, options.sequence_length)
    data = open_data(options, kind)
    if data.identity != known["identity"]:
        gone = "its packed text is gone" if folder else "no copy of it is kept"
        raise ValueError(
            f"the data is not what run {run.name} began with ({known['identity'][:12]}, now {data.identity[:12]}), and "
            f"{gone}: begin a new run"
        )
    return data


def record(run: RunFolder, options: DataOptions, data: Data) -> None:
    """Keep in data.json what a run reads, every source file with its hash; what stands there already is left."""
    known = _known(run)
    if known.get("asked") != asdict(options) or known["identity"] != data.identity:
        content = {"asked": asdict(options), **facts(data), "files": [dict(file) for file in data.files]}
        publish(run.path / "data.json", json.dumps(content, indent=1) + "\n")


def facts(data: Data) -> dict[str, Any]:
    """What is known of data, as JSON values."""
    return {
        "identity": data.identity,
        "summary": dict(data.summary),
        "vocab_size": data.vocab_size,
        "tokens_per_sample": data.tokens_per_sample,
        "bytes_per_token": data.bytes_per_token,
        "unigram_entropy": data.unigram_entropy,
    }


def _known(run: RunFolder) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((run.path / "data.json").read_text())
    except FileNotFoundError:
        return {}
    return content
