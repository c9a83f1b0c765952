"""Pictures to try things on, drawn here, and what of them to ask.

Knows the scenes; must not know models or HTTP.
"""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import NamedTuple

from PIL import Image

from localize.evaluation.scenes import concepts, demo_scene, make_scene


class Example(NamedTuple):
    """title: in a word or two. prompts: things that are in it, and one that is not."""

    title: str
    seed: int | None  # of the scene; None: the demo's
    prompts: tuple[str, ...]


EXAMPLES = (
    Example("a garden", None, ("a cat", "a butterfly", "a bicycle")),
    Example("two swans", 5176, ("a swan", "a hamster", "a violin")),
    Example("a bee", 5126, ("a bee", "a cupcake", "a car")),
    Example("a parachute", 5011, ("a parachute", "a balloon", "a guitar")),
)


@cache
def example_file(number: int) -> bytes:
    """An example as a PNG file."""
    seed = EXAMPLES[number].seed
    scene = demo_scene() if seed is None else make_scene(seed)
    data = BytesIO()
    Image.fromarray(scene.image).save(data, "png", compress_level=1)
    return data.getvalue()


def known_words() -> list[str]:
    """What the embedded model knows."""
    return [concept.name for concept in concepts()]
