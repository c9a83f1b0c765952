"""From a user's words to embeddings: templates, ensembles and negatives.

Knows texts and the text side of an encoder; must not know images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from localize.encoders.checks import check_prompt_embeddings
from localize.encoders.protocol import Encoder

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


@dataclass(frozen=True)
class Prompt:
    """What the user asks for. `label` is what results call it, `texts` what the encoder reads.

    Raises TypeError for what is no text and ValueError where there is none or a blank one.
    """

    label: str
    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.texts, str) or not all(
            isinstance(text, str) for text in (self.label, *self.texts)
        ):
            raise TypeError(f"a Prompt must be a label and a tuple of texts, not {self}")
        if not self.texts or not all(text.strip() for text in self.texts):
            raise ValueError(f"the texts of the prompt {self.label!r} must be words, none blank")


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


class PromptEmbedder:
    """Embeds prompts with one encoder and remembers what it has embedded.

    Two threads may share one: at worst a text is embedded twice.
    """

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self._known: dict[str, torch.Tensor] = {}

    def __call__(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Embed P prompts as float32 (P, D), each the unit-norm mean of its texts' embeddings."""
        texts = {text for prompt in prompts for text in prompt.texts}
        new = sorted(texts - self._known.keys())
        if new:
            embeddings = self._encoder.encode_prompts(new)
            check_prompt_embeddings(self._encoder, embeddings, len(new))
            self._known.update(zip(new, embeddings.detach().float().cpu(), strict=True))
        means = [
            torch.stack([self._known[text] for text in prompt.texts]).mean(0) for prompt in prompts
        ]
        return F.normalize(torch.stack(means), dim=-1)
