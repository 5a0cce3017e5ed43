"""The two rules that hide lengths by rounding them up: cells of a request, frames of an answer.

Both round to the steps 1, 2, 3, 4, 6, 8, 12, 16, ... (2^a and 3 x 2^a): never more than half is
added, and a number that reaches a million has some forty values instead.

A request fills whole cells. Of the m cells on each path remain, beside the headers, 1,970 m - 123
bytes for the fragment of its clove:

    1,970  data of a cell                                 OPEN, DATA
    -  20  id of the model node, in the first cell        OPEN
    -   2  m itself, before the sealed clove
    -  48  HPKE of the clove                              encapsulated key, tag
    -  16  message id
    -  37  header of the clove and its share of the key

k fragments hold the request's ciphertext, which is 64 bytes longer than what it carries: HPKE's 48
and the 16 of S-IDA's own AEAD.
"""

from __future__ import annotations

from overlay.core.payload import CHUNK_BYTES

STREAM_OVERHEAD_BYTES = 20 + 2 + 48 + 16 + 37
CIPHERTEXT_OVERHEAD_BYTES = 48 + 16
MAX_REQUEST_CELLS = 768
MIN_ANSWER_FRAMES = 4


def step_at_least(count: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, ... that is not below `count`."""
    if count <= 1:
        return 1
    power = 1 << (count - 1).bit_length()
    three_quarters = power // 4 * 3
    return three_quarters if count <= three_quarters else power


def request_bytes(cells: int, k: int) -> int:
    """How many bytes a request has that takes `cells` cells on each path, k of which suffice."""
    return k * (CHUNK_BYTES * cells - STREAM_OVERHEAD_BYTES) - CIPHERTEXT_OVERHEAD_BYTES


def request_cells(size_bytes: int, k: int) -> int:
    """How many cells each path carries of a request of `size_bytes`, before it is padded.

    Raises `ValueError` when it would take more than `MAX_REQUEST_CELLS`.
    """
    fragment = -(-(size_bytes + CIPHERTEXT_OVERHEAD_BYTES) // k)
    cells = step_at_least(-(-(fragment + STREAM_OVERHEAD_BYTES) // CHUNK_BYTES))
    if cells > MAX_REQUEST_CELLS:
        raise ValueError("the request is too large")
    return cells


def answer_frames(frames: int) -> int:
    """How many frames an answer of `frames` has when padded, counted from its first token."""
    return step_at_least(max(frames, MIN_ANSWER_FRAMES))
