"""Which of a checkpoint's files are needed, told from their names.

Knows how the two libraries name their files; must not know where the files are, nor load any.

A repository often holds the same weights several times: in safetensors and pickled, in full and in
half precision, for two libraries. One set is chosen, whole, and nothing else is fetched or opened:

1. safetensors before pickles, and pickles only where the caller allows them;
2. transformers' layout before open_clip's, unless its configuration asks for code of its own;
3. full precision before variants (``model.fp16.safetensors``), one file before shards.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Library = Literal["transformers", "open_clip"]

CONFIGS: dict[Library, str] = {
    "transformers": "config.json",
    "open_clip": "open_clip_config.json",
}
VARIANTS = ("fp16", "bf16", "fp32")  # the first that is there is taken

STEMS: dict[tuple[Library, bool], tuple[str, str]] = {  # (library, pickled) -> stem, ending
    ("transformers", False): ("model", "safetensors"),
    ("open_clip", False): ("open_clip_model", "safetensors"),
    ("transformers", True): ("pytorch_model", "bin"),
    ("open_clip", True): ("open_clip_pytorch_model", "bin"),
}
_SETTINGS = {"preprocessor_config.json", "processor_config.json", "negatives.json"}
_VOCABULARY = re.compile(
    r"(tokenizer.*\.json|special_tokens_map\.json|added_tokens\.json|vocab.*|merges\.txt|.+\.model)"
)
_SHARD = r"(?:-\d+-of-\d+)?"
_PICKLED = re.compile(r".+\.(bin|pt|pth|ckpt)")


@dataclass(frozen=True)
class Layout:
    """A checkpoint's files that are needed, by name."""

    library: Library
    weights: tuple[str, ...]  # one set in one format, shards in order; empty where there is none
    variant: str | None  # "fp16" where only such weights are there
    others: tuple[str, ...]  # configuration, index of shards, tokenizer, image processor
    pickles: tuple[str, ...]  # weights that could be had if pickles were allowed
    whole: bool  # whether nothing that loading needs can be missing

    @property
    def pickled(self) -> bool:
        return any(_PICKLED.fullmatch(name) for name in self.weights)

    @property
    def needed(self) -> tuple[str, ...]:
        return self.others + self.weights


def choose(
    names: Collection[str],
    configs: Mapping[Library, dict[str, Any] | None],
    *,
    unpickle: bool = False,
) -> Layout:
    """The files to take of those that a checkpoint's folder holds.

    names: of the files in the folder itself. configs: what the libraries' configuration files say,
    None or absent for one that is not there or not known.
    """
    libraries = _libraries(names, configs.get("transformers"))
    pickles = tuple(
        name for library in libraries for name in _weights(names, library, pickled=True)[0]
    )
    for pickled in (False, True) if unpickle else (False,):
        for library in libraries:
            weights, variant = _weights(names, library, pickled=pickled)
            if weights:
                others = _others(names, library, weights, variant)
                whole = _is_whole(others, weights, library, configs.get(library))
                return Layout(library, weights, variant, others, pickles, whole)
    library = libraries[0]
    return Layout(library, (), None, _others(names, library, (), None), pickles, False)


def _libraries(names: Collection[str], config: dict[str, Any] | None) -> list[Library]:
    """The libraries whose layout this can be, the better one first."""
    found: list[Library] = [library for library in CONFIGS if CONFIGS[library] in names]
    foreign = config is not None and ("auto_map" in config or "model_type" not in config)
    return (found[::-1] if foreign else found) or ["transformers"]


def _weights(
    names: Collection[str], library: Library, *, pickled: bool
) -> tuple[tuple[str, ...], str | None]:
    """The names of one set of weights, and its variant."""
    stem, ending = STEMS[library, pickled]
    others = sorted(
        {
            found[1]
            for name in names
            if (found := re.fullmatch(rf"{stem}{_SHARD}\.(\w+){_SHARD}\.{ending}", name))
        }
    )
    known = [variant for variant in VARIANTS if variant in others]
    for variant in [None, *known, *others]:
        base = stem if variant is None else f"{stem}.{variant}"
        if f"{base}.{ending}" in names:
            return (f"{base}.{ending}",), variant
        shard = re.compile(rf"({re.escape(base)}-\d+-of-\d+)(\.{variant})?\.{ending}")
        if shards := sorted(name for name in names if shard.fullmatch(name)):
            return tuple(shards), variant
    return (), None


def _others(
    names: Collection[str], library: Library, weights: tuple[str, ...], variant: str | None
) -> tuple[str, ...]:
    wanted = {CONFIGS[library], *_SETTINGS, *_indices(weights, variant)}
    # With tokenizer.json the vocabulary that it was made from is not read.
    vocabulary = {name for name in names if _VOCABULARY.fullmatch(name)}
    if "tokenizer.json" in vocabulary:
        vocabulary = {name for name in vocabulary if not name.endswith(".model")}
    return tuple(sorted(name for name in names if name in wanted | vocabulary))


def _indices(weights: tuple[str, ...], variant: str | None) -> set[str]:
    """The file that says which shard holds what."""
    if not weights or not (found := re.fullmatch(r"(.+?)-\d+-of-\d+.*\.(\w+)", weights[0])):
        return set()
    stem = found[1].removesuffix(f".{variant}")
    return {f"{stem}.{found[2]}.index{'' if variant is None else '.' + variant}.json"}


def _is_whole(
    others: tuple[str, ...],
    weights: tuple[str, ...],
    library: Library,
    config: dict[str, Any] | None,
) -> bool:
    shards = re.search(r"-of-(\d+)", weights[0])
    if shards and (len(weights) != int(shards[1]) or not any(".index" in name for name in others)):
        return False
    has = set(others).__contains__
    vocabulary = (
        has("tokenizer.json")
        or has("vocab.txt")
        or (has("vocab.json") and has("merges.txt"))
        or any(name.endswith(".model") for name in others)
    )
    tokenizer = has("tokenizer_config.json") and vocabulary
    if library == "open_clip":
        text = (config or {}).get("model_cfg", {})
        text = text.get("text_cfg", {}) if isinstance(text, dict) else {}
        own = isinstance(text, dict) and text.get("hf_tokenizer_name")
        return config is not None and (tokenizer or not own)
    processor = has("preprocessor_config.json") or has("processor_config.json")
    return config is not None and processor and tokenizer
