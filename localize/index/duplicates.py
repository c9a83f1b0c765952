"""Groups of pictures that show the same, by their whole-picture embeddings.

Knows the embeddings of whole pictures; must not know prompts or the command line.
"""

from __future__ import annotations

import torch

from localize.index.schema import embeddings_in
from localize.index.store import Store

ALIKE = 0.97
"""Least cosine of two whole pictures that show the same: another size, quality, or small crop."""

ROWS_AT_ONCE = 1_024


def duplicates(store: Store, alike: float = ALIKE) -> list[list[str]]:
    """The files that show the same, in groups: largest first, each sorted by path.

    alike: least cosine, in (0, 1], of the embeddings of two whole pictures that show the same. What
    one shares with another and that with a third is one group. Files of the same bytes always are.

    Raises ValueError for `alike` out of its range.

    Every picture is compared with every other one, so that the time goes with the square of their
    number.
    """
    if not 0 < alike <= 1:
        raise ValueError(f"alike must be in (0, 1], not {alike}")
    wholes = store.whole_pictures(("content", "vector"))
    contents = wholes["content"].to_pylist()
    embeddings = embeddings_in(wholes, store.settings.dimensions)
    leader = list(range(len(contents)))

    def led_by(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for start in range(0, len(contents), ROWS_AT_ONCE):
        # Only against those after them.
        cosines = embeddings[start : start + ROWS_AT_ONCE] @ embeddings[start:].T
        for one, other in torch.nonzero((cosines >= alike).triu(1)).tolist():
            leader[led_by(start + other)] = led_by(start + one)
    number_of = {content: number for number, content in enumerate(contents)}
    groups: dict[int, list[str]] = {}
    for row in store.picture_rows("problem IS NULL AND NOT missing"):
        groups.setdefault(led_by(number_of[row["content"]]), []).append(row["path"])
    found = [sorted(group) for group in groups.values() if len(group) > 1]
    return sorted(found, key=lambda group: (-len(group), group))
