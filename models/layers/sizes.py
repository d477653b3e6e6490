"""How many bytes do the ends of a language model keep? Torch-free, for the records of entries."""

LOGITS = 2**24  # that a loss holds at once: 64 MiB in fp32


def head_bytes(vocabulary: int, width: int, rows: int, statistics: int, element: int) -> tuple[int, int]:
    """Bytes that norm, projection and loss keep for backward, and that the loss's backward needs more for a moment.

    Kept are the norm's input and output, its fp32 statistics, and the fp32 log-probabilities where they are one chunk;
    their gradient is passed on through two tensors of that size. Several chunks are made anew, one at a time, beside
    the weight's fp32 gradient: two tensors of a chunk, or one and what is added to that gradient.

    Args:
        rows: samples x tokens; statistics: numbers that the norm keeps of a row; element: bytes of a number.
    """
    most = max(1, LOGITS // vocabulary)
    chunk = 4 * vocabulary * min(rows, most)
    states = rows * (2 * width * element + 4 * statistics)
    if rows <= most:
        return states + chunk, 2 * chunk
    weight = 4 * vocabulary * width
    return states, chunk + weight + max(chunk, weight)
