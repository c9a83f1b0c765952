"""Words that the embedded model cannot know: what an honest "not here" is measured with.

Knows the list beside it; must not know scenes, models or metrics.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

WORDS = Path(__file__).parent / "unknown.txt"


@cache
def unknown_words() -> tuple[str, ...]:
    """Everyday, foreign and made-up words that are in no phrase of the embedded model's training.

    Some hold a known name and mean another thing ("a fish tank").
    """
    lines = WORDS.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def some_unknown(count: int, seed: int) -> tuple[str, ...]:
    """As many of them, all different, chosen by a seed."""
    words = unknown_words()
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(len(words))[:count]
    return tuple(words[number] for number in chosen)
