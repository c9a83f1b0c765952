"""From what a user asks for to embeddings: templates, alternatives, pictures, negatives.

Knows texts, the text side of an encoder, and what a picture's embedding means in words; must not
know windows or maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from localize.encoders.checks import check_prompt_embeddings
from localize.encoders.protocol import Encoder
from localize.images import ImageSource, Picture, read_image

TEMPLATES = (
    "a photo of {}",
    "a cropped photo of {}",
    "a close-up photo of {}",
    "a photo of {} in a scene",
)
"""Put around a bare noun and averaged, after the prompt ensembles of CLIP (Radford et al. 2021,
arXiv 2103.00020, section 3.1.4)."""

LONGEST_NOUN = 3
"""Words in the longest prompt that is still taken as a bare noun."""

_DETERMINERS = frozenset(
    "a an the some my your his her its our their this that these those one two three".split()
)
_JOINTS = frozenset("is are was were with without of in on at by for and or who which not".split())

SHARPNESS = 2.0
"""How much more than by its softmax a picture in words keeps to the words it is most like. With 1 a
doubtful one lies in the middle of the bank, near to too many of its words to have rivals."""

BANK = tuple(
    """sky clouds grass tree leaves flower bush plant soil sand stone mountain snow water sea river
    road street pavement wall floor ceiling window door roof fence bridge stairs building house room
    kitchen furniture table chair bench sofa bed shelf cupboard curtain carpet cloth paper cardboard
    plastic metal wood glass brick concrete sign text poster picture mirror lamp candle
    person face hand hair foot crowd shirt trousers dress shoe hat bag glasses watch jewellery
    dog cat horse cow sheep bird fish insect butterfly snake elephant bear monkey mouse animal
    car truck bus train bicycle motorcycle boat airplane wheel traffic machine tool engine
    bottle cup plate bowl fork knife spoon food bread cake fruit apple banana vegetable meat
    computer screen keyboard telephone camera television book pen clock ball toy box umbrella
    bin pipe cable rope tower tent flag statue fountain fire smoke shadow light reflection
    pattern texture blur background darkness""".split()
)
"""Everyday things and backgrounds that prompts are scored against by default."""

PARTS = {
    "person": "face hand hair foot shirt trousers dress shoe hat glasses watch jewellery",
    "crowd": "person face hand hair foot shirt trousers dress shoe hat glasses watch jewellery",
    "car": "wheel engine",
    "truck": "wheel engine",
    "bus": "wheel engine",
    "bicycle": "wheel",
    "motorcycle": "wheel engine",
    "house": "roof window door wall",
    "building": "roof window door wall",
    "tree": "leaves wood",
}
"""Words of the bank and what of the bank is a part of them, or worn: whatever is asked for and is
near to the first does not have the others against it. A short list of wholes is enough, as prompts
are matched to them by their embeddings ("a little girl" is near to "person")."""


def parts_of(words: Sequence[str]) -> torch.Tensor:
    """Which words of a bank are parts of which by `PARTS`: bool (K, K), a row for each whole."""
    return torch.tensor(
        [[part in PARTS.get(whole, "").split() for part in words] for whole in words]
    )


@dataclass(frozen=True)
class Prompt:
    """What the user asks for. Most are made by `Prompt.of` or `Prompt.from_image`.

    label: what results call it.
    texts: what the encoder reads; their embeddings are averaged. Empty where pictures are asked.
    others: alternatives, each with texts of its own; each is judged alone and the best counts.
    pictures: pictures of the thing, each an alternative.
    unlike: pictures of what it is not.
    negatives: words for what it is not: this prompt is scored against them, besides the bank.
    threshold: the least score, in [0, 1], of a box of its own; None: that of the options.

    Raises TypeError for what is no text or number, and ValueError where there is no text, a blank
    one, one that is both asked for and a negative, or a threshold out of its range.
    """

    label: str
    texts: tuple[str, ...]
    others: tuple[tuple[str, ...], ...] = ()
    pictures: tuple[Picture, ...] = ()
    unlike: tuple[Picture, ...] = ()
    negatives: tuple[str, ...] = ()
    threshold: float | None = None

    @classmethod
    def of(
        cls,
        label: str,
        *,
        any: Iterable[str] = (),
        like: Iterable[ImageSource] = (),
        unlike: Iterable[ImageSource] = (),
        negatives: Iterable[str] = (),
        threshold: float | None = None,
    ) -> Prompt:
        """A label of the user's own for the things that it may be.

        any: words or phrases, each judged alone: a car counts as a vehicle however little it is
            like a bus. Without them, and without pictures, the label itself is asked.
        like: pictures of it, each an alternative. unlike: pictures of what it is not.
        negatives: words or phrases that it is scored against. threshold: of its own boxes.

        >>> Prompt.of("vehicle", any=["car", "truck", "bus"], negatives=["toy"], threshold=0.3)

        Raises ImageError for a picture that cannot be read.
        """
        for name, texts in (("any", any), ("negatives", negatives)):
            if isinstance(texts, str) or not isinstance(texts, Iterable):
                raise TypeError(f"{name} must be several texts, as in a list, not {texts!r}")
        for name, images in (("like", like), ("unlike", unlike)):
            if isinstance(images, str | bytes | PathLike) or not isinstance(images, Iterable):
                raise TypeError(f"{name} must be several pictures, as in a list")
        pictures = tuple(map(read_image, like))
        asked = [as_prompt(text).texts for text in any]
        first, *others = asked or [() if pictures else as_prompt(label).texts]
        return cls(
            label,
            first,
            tuple(others),
            pictures,
            tuple(map(read_image, unlike)),
            tuple(negatives),
            threshold,
        )

    @classmethod
    def from_image(
        cls,
        image: ImageSource,
        label: str | None = None,
        *,
        words: str | None = None,
        unlike: Iterable[ImageSource] = (),
    ) -> Prompt:
        """A picture that shows the thing to be found, and little else.

        image: what `images.read_image` takes; it is read at once.
        label: what results call it; by default the words, else the file's name.
        words: what it is called as well, as an alternative.
        unlike: pictures of what is not meant, which it is scored against.

        Raises ImageError for a picture that cannot be read.
        """
        picture = read_image(image)
        name = label or words or (Path(picture.file).stem if picture.file else "picture")
        return cls.of(name, any=[words] if words else [], like=[picture], unlike=unlike)

    @property
    def alternatives(self) -> tuple[tuple[str, ...] | Picture, ...]:
        """All that it may be: ensembles of texts, and pictures."""
        return (*((self.texts,) if self.texts else ()), *self.others, *self.pictures)

    @property
    def against(self) -> tuple[tuple[str, ...] | Picture, ...]:
        """What this prompt alone is scored against: ensembles of texts, and pictures."""
        return (*(as_prompt(word).texts for word in self.negatives), *self.unlike)

    def to_dict(self) -> dict[str, Any]:
        """All that its answers hang on as plain data, a picture as the SHA-256 of its pixels."""
        return {
            "label": self.label,
            "any": [list(texts) for texts in (self.texts, *self.others) if texts],
            "like": [_digest(picture) for picture in self.pictures],
            "unlike": [_digest(picture) for picture in self.unlike],
            "negatives": list(self.negatives),
            "threshold": self.threshold,
        }

    def __post_init__(self) -> None:
        ensembles = (self.texts, *self.others)
        if any(isinstance(texts, str) for texts in ensembles) or not all(
            isinstance(text, str) for text in (self.label, *chain.from_iterable(ensembles))
        ):
            raise TypeError(f"a Prompt must be a label and a tuple of texts, not {self}")
        some = bool(self.texts or self.pictures) and all(self.others)
        if not some or not all(text.strip() for text in chain.from_iterable(ensembles)):
            raise ValueError(f"the texts of the prompt {self.label!r} must be words, none blank")
        both = {as_prompt(word).texts for word in self.negatives} & set(ensembles)
        if both:
            word = next(word for word in self.negatives if as_prompt(word).texts in both)
            raise ValueError(f"{word!r} is both asked for and a negative of {self.label!r}")
        if self.threshold is None:
            return
        if isinstance(self.threshold, bool) or not isinstance(self.threshold, Real):
            raise TypeError(f"threshold must be a number, not {self.threshold!r}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], not {self.threshold}")


def as_prompt(prompt: str | Prompt) -> Prompt:
    """A bare noun becomes an ensemble of templates; a phrase or sentence is taken as it is.

    Raises TypeError for what is neither text nor a Prompt and ValueError for blank text.
    """
    if isinstance(prompt, Prompt):
        return prompt
    if not isinstance(prompt, str):
        raise TypeError(f"a prompt must be text or a Prompt, not {type(prompt).__name__}")
    text = " ".join(prompt.split())
    if not text:
        raise ValueError("a prompt must not be blank; say in words what to look for")
    if not _is_bare_noun(text):
        return Prompt(prompt, (text,))
    noun = f"{_article(text)} {text}"
    return Prompt(prompt, tuple(template.format(noun) for template in TEMPLATES))


def _digest(picture: Picture) -> str:
    return sha256(repr(picture.pixels.shape).encode() + picture.pixels.tobytes()).hexdigest()


def _is_bare_noun(text: str) -> bool:
    words = text.lower().split()
    return (
        len(words) <= LONGEST_NOUN
        and text[-1].isalnum()
        and words[0] not in _DETERMINERS
        and not _JOINTS.intersection(words)
    )


def _article(noun: str) -> str:
    return "an" if noun[0].lower() in "aeiou" else "a"


MOST_KNOWN = 20_000
"""Texts whose embeddings are remembered: some 40 MB. A server is asked ever new ones."""


class PromptEmbedder:
    """Embeds prompts with one encoder and remembers what it has embedded, `MOST_KNOWN` texts.

    Two threads may share one: at worst a text is embedded twice.
    """

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self._known: dict[str, torch.Tensor] = {}

    def __call__(self, ensembles: Sequence[tuple[str, ...]]) -> torch.Tensor:
        """Embed P ensembles of texts as float32 (P, D), each the unit-norm mean of its texts'."""
        texts = {text for ensemble in ensembles for text in ensemble}
        before = self._known
        known = {text: before[text] for text in texts if text in before}
        new = sorted(texts - known.keys())
        if new:
            embeddings = self._encoder.encode_prompts(new)
            check_prompt_embeddings(self._encoder, embeddings, len(new))
            known.update(zip(new, embeddings.detach().float().cpu(), strict=True))
            self._known = known if len(before) + len(new) > MOST_KNOWN else {**before, **known}
        means = [torch.stack([known[text] for text in ensemble]).mean(0) for ensemble in ensembles]
        return F.normalize(torch.stack(means), dim=-1)


def in_words(pictures: torch.Tensor, bank: torch.Tensor, logit_scale: float) -> torch.Tensor:
    """Embeddings of pictures as embeddings of texts: what they show, said in words of the bank.

    pictures: unit-norm (P, D), of the image tower. bank: unit-norm (K, D), of texts.
    Returns unit-norm (P, D): the mean of the bank weighted by
    softmax(SHARPNESS * logit_scale * cosine).

    Cosines between two pictures lie in another, higher and narrower band than those between a
    picture and a text ("the modality gap", Liang et al., arXiv 2203.02053): scored as it is, any
    picture is sure to be in any other. In words it has presence, and "not here", as words have.
    """
    weights = torch.softmax(SHARPNESS * logit_scale * pictures @ bank.T, -1)
    return F.normalize(weights @ bank, dim=-1)
