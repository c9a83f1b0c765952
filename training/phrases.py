"""What people write when they look for something: phrases of names, of backgrounds, and of other
things.

Knows the concepts' words and English templates; knows no model. Some templates are held out: the
text tower never sees them, and the checks ask with nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from localize.evaluation import scenes
from localize.prompts import TEMPLATES as USUAL

TEMPLATES = (
    "{}", "{}", "{}", "{a}", "{a}", "{a}", "the {}", "the {}", "some {}", "my {}", "one {}",
    "this {}", "{s}", "two {s}", "many {s}", "three {s}", "several {s}", "a photo of {a}",
    "a photo of the {}", "a picture of {a}", "an image of {a}", "a drawing of {a}",
    "an emoji of {a}", "a {} emoji", "an icon of {a}", "a close-up of {a}",
    "a cropped photo of {a}", "a bad photo of {a}", "a good photo of {a}", "a photo of many {s}",
    "a picture with {a} in it", "there is {a} in the scene", "this is {a}", "it is {a}",
    "here is the {}", "show me the {}", "show me {a}", "find the {}", "find {a}",
    "look for the {}", "i see {a}", "the {} on the left", "{a} on the right", "{a} at the top",
    "the {} in the corner", "{a} in the background", "where are the {s}?", "a {j} {}",
    "the {j} {}", "{j} {}", "{j} {s}", "a {j} {j} {}", "a photo of a {j} {}",
    "the {j} {} on the left", "{a} which looks {j}", "a {} so {j}", "{a} ({j})",
    "{} looking very {j}", "a {j} {}", "a {j} {}", "the {j} {}", "{j} {}",
    *(template.replace("{}", "{a}") for template in USUAL),
)  # fmt: skip
HELD_OUT = (
    "where is the {}?", "can you see {a} here?", "please point at the {}",
    "a snapshot of my {j} {}", "{a} on the left", "a painting of the {}",
    "is there {a} in this picture", "the {} that is {j}", "all of the {s}", "{a}, {j}",
)  # fmt: skip
ADJECTIVES = (
    "small big large little tiny huge cute beautiful lovely nice pretty old new single real "
    "simple bright dark funny good clean fresh colorful shiny blurry cartoon lonely whole "
    "ordinary typical great strange fluffy furry fuzzy hairy soft hard smooth rough round flat "
    "long short tall thin thick fat slim heavy light empty full broken dirty dusty wet dry hot "
    "cold warm cool frozen sweet tasty delicious yummy juicy crispy happy sad angry sleepy "
    "sleeping sitting standing running jumping flying wild tame young adult giant mini gigantic "
    "massive enormous wooden metal plastic golden silver striped spotted red blue green yellow "
    "orange purple pink brown black white grey gray colourful pale vivid plain fancy elegant "
    "modern antique vintage ancient classic expensive cheap rare common favorite perfect ugly "
    "scary friendly gentle fast slow quiet loud magic magical mysterious hidden upside-down "
    "tilted tiny-looking partly covered"
).split()
FILLERS = (
    "a the of in on at with is are and to for by from my your his her our i you we it this that "
    "there here where what which who can could do does see show find look me us some any one "
    "two all every just only very quite near next under above behind inside scene image photo "
    "shot view like want need get let now again really so also not too more up down out over"
).split()
BACKGROUND = (
    "background", "the background", "empty background", "a plain background",
    "a blurry background", "an empty scene", "nothing", "nothing at all", "empty space",
    "a pattern", "a texture", "a wallpaper", "a blank wall", "abstract shapes", "clutter",
    "a colour gradient", "stripes", "a checkered pattern", "noise", "a photo of the background",
    "a photo of nothing", "a photo of an empty background",
)  # fmt: skip
NEGATIVE_BACKGROUNDS = ("the background",)
"""The phrases of the background that the model's bank of negatives names."""

UNHEARD = "zxqvy"
"""Stands for all words that are not in the vocabulary: the tokenizer takes them for one another."""


def others() -> tuple[list[str], list[str]]:
    """Things that the model does not know and shall say so: those trained on, and every tenth held
    out."""
    text = (Path(__file__).parent / "other_words.txt").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if not line.startswith("#")]
    words = dict.fromkeys(word.replace("_", " ") for word in " ".join(rows).split())
    known = {word for words in names() for word in words}
    unknown = [word for word in words if word not in known]
    return [w for i, w in enumerate(unknown) if i % 10], unknown[::10]


def names() -> list[tuple[str, ...]]:
    """The words for each concept, its name first."""
    return [(concept.name, *concept.synonyms) for concept in scenes.concepts()]


def plural(noun: str) -> str:
    if noun.endswith("s") and not noun.endswith("ss"):
        return noun
    if noun.endswith(("ss", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in tuple("aeiou"):
        return noun[:-1] + "ies"
    return noun + "s"


def pick(rng: np.random.Generator, items: Sequence[str]) -> str:
    """Any of the items (``rng.choice`` would make an array of them each time)."""
    return items[int(rng.integers(len(items)))]


def frame(rng: np.random.Generator) -> str:
    """A template of random small words around the noun: nobody can foresee all phrasings.

    Before it they may be unheard of; after it an unheard word would be what the thing is.
    """
    before = [
        UNHEARD if rng.random() < 0.15 else pick(rng, FILLERS) for _ in range(rng.integers(0, 5))
    ]
    after = [pick(rng, (*FILLERS, "{j}")) for _ in range(rng.integers(0, 4))]
    return " ".join([*before, pick(rng, ("{}", "{a}", "the {}", "{s}", "the {j} {}")), *after])


def fill(template: str, noun: str, rng: np.random.Generator, invent: bool = True) -> str:
    """Fill ``{}``, ``{a}`` (with an article), ``{s}`` (plural) and ``{j}`` (adjectives).

    With ``invent`` some adjectives are words never heard of: any word may describe a thing.
    """
    article = "an" if noun[0] in "aeiou" else "a"
    many = noun.endswith("s") and not noun.endswith(("ss", "us"))
    with_article = noun if many and rng.random() < 0.5 else f"{article} {noun}"
    text = template.replace("{}", noun).replace("{a}", with_article).replace("{s}", plural(noun))
    while "{j}" in text:
        made_up = invent and rng.random() < 0.2 and "{j} " in text
        word = UNHEARD if made_up else pick(rng, ADJECTIVES)
        text = text.replace("{j}", word, 1)
    return text
