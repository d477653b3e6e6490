"""How many bytes does the end of a language model keep? Torch-free, for the records of entries."""

LOGITS = 2**24  # that a loss holds at once: 64 MiB in fp32


def head_bytes(vocabulary: int, width: int, rows: int, row: int) -> tuple[int, int]:
    """Bytes that norm, projection and loss keep for backward, and that the loss's backward needs more for a moment.

    Kept are what the norm keeps, its output, and the fp32 log-probabilities where they are one chunk; their gradient
    is passed on through two tensors of that size. Several chunks are made anew, one at a time, beside the weight's
    fp32 gradient: two tensors of a chunk, or one and what is added to that gradient.

    Args:
        rows: samples x tokens; row: bytes of a row that the norm keeps, its output included.
    """
    most = max(1, LOGITS // vocabulary)
    chunk = 4 * vocabulary * min(rows, most)
    if rows <= most:
        return rows * row + chunk, 2 * chunk
    weight = 4 * vocabulary * width
    return rows * row, chunk + weight + max(chunk, weight)


def rms_norm_bytes(width: int, element: int) -> int:
    """Bytes of a row that RMSNorm keeps: fp32 input and root mean square, the scaled input, and its output."""
    return 4 * width + 4 + 2 * width * element
