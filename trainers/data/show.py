"""What will the model see? The first samples of a run, decoded, with their ids and the documents' ends. Without torch.

Only a data set of the user's own may load torch, if the user's module does.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..options import DataOptions
from .dataset import Data, open_data
from .order import Order

HEAD = 16  # ids that are written out at each end of a sample


def samples(options: DataOptions, kind: str, seed: int, count: int) -> list[dict[str, Any]]:
    """The samples at positions 0 to count - 1 of a run, as values that JSON can carry.

    Packed text gives position, sample, ids [T + 1] (the inputs and the last target), ends (places of separators among
    them) and texts (of the documents between those; None without a tokenizer); a data set of the user's own gives
    position, sample and the dtype and shape of each value.

    Raises:
        ValueError: as `open_data`.
    """
    data = open_data(options, kind)
    indices = Order(len(data.train), seed).samples(0, count)
    describe = _tokens if data.tokens_per_sample and data.files else _values
    return [{"position": n, "sample": int(i), **describe(data, int(i))} for n, i in enumerate(indices)]


def _tokens(data: Data, index: int) -> dict[str, Any]:
    item = data.train[index]
    ids = np.append(item["inputs"], item["targets"][-1])
    separator = data.tokenizer.separator if data.tokenizer else None
    ends = [] if separator is None else np.flatnonzero(ids == separator).tolist()
    texts = [data.decode(part) for part in np.split(ids, np.array(ends, int) + 1)] if data.tokenizer else None
    return {"ids": ids.tolist(), "ends": ends, "texts": texts}


def _values(data: Data, index: int) -> dict[str, Any]:
    item = data.train[index]
    parts = item if isinstance(item, Mapping) else dict(enumerate(item if isinstance(item, (tuple, list)) else [item]))
    return {"values": {str(name): _shape(value) for name, value in parts.items()}}


def _shape(value: Any) -> str:
    array = value if hasattr(value, "shape") else np.asarray(value)
    return f"{str(array.dtype).removeprefix('torch.')} {list(array.shape)}"


def lines(shown: list[dict[str, Any]]) -> Iterator[str]:
    """The same for a terminal."""
    for sample in shown:
        yield f"position {sample['position']}: sample {sample['sample']}"
        if "values" in sample:
            yield from (f"  {name}: {shape}" for name, shape in sample["values"].items())
            continue
        yield f"  {len(sample['ids'])} ids: {_short(sample['ids'])}"
        yield f"  documents end at: {', '.join(map(str, sample['ends'])) or 'nowhere in this sample'}"
        for number, text in enumerate(sample["texts"] or ["(no tokenizer is known for these ids)"]):
            yield from ["  +--- the next document"] if number else []
            yield from (f"  | {line}" for line in text.splitlines())


def _short(ids: list[int]) -> str:
    words = [str(id) for id in ids]
    return " ".join(words if len(words) <= 2 * HEAD else [*words[:HEAD], "...", *words[-HEAD:]])
