"""An `Encoder` whose towers are graphs, compiled once for this machine's CPU and kept.

Knows towers, graphs and their cache; must not know a library's models, nor windows or boxes.

The first time the towers are loaded as for any other encoder, traced, compared with themselves as
torch runs them, and kept in the user's cache folder. From then on only the graphs are loaded, and
neither the checkpoint's weights nor the library that reads them.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F

from localize.encoders import graph_cache, graphs
from localize.encoders.graph_cache import Stored
from localize.encoders.protocol import Encoder
from localize.encoders.reload import Reloadable
from localize.encoders.texts import Texts, TextTower
from localize.encoders.towers import TowerEncoder

Format: TypeAlias = Literal["float32", "bfloat16", "int8"]

FAITHFUL = 0.999
"""Mean cosine with the tower as torch runs it in float32, below which a graph is not taken."""
LEAST_EMBEDDINGS, LEAST_TOKENS = 0.995, 0.99
"""The same for int8, measured on crops that were not used to quantize."""
CROPS_AT_ONCE = 64
"""OpenVINO divides large products among the caches by itself, where torch is quicker with few crops
at once: all of a batch are up to a seventh faster than as many as torch is given."""
MIN_CALIBRATION = 8  # crops; with fewer, ranges are guesswork
HELD_OUT = 3  # every third crop is held out

_CHECKED_TEXTS = ["a photo of a cat", "Zebra crossing, in the middle of a street (2)", "naïve", "a"]


@dataclass(frozen=True)
class Calibration:
    """What to quantize on: pictures like those that the encoder is to see."""

    crops: Callable[[Encoder], torch.Tensor]
    """An encoder -> crops for it, float32 (N, 3, S, S). Asked only where they are needed."""
    pictures: str = ""
    """Changes with the pictures; a graph that was made of others is made again. Empty: any do."""


class CompiledEncoder(Reloadable):
    """Towers compiled with OpenVINO, as an `Encoder` on the CPU; see the protocol for shapes.

    Several threads may use one at a time.
    """

    negatives: list[str]  # only where the checkpoint brings a bank of its own
    token_scale: float  # only where cells have a scale of their own
    device = torch.device("cpu")

    def __init__(self, name: str, facts: dict[str, Any], tower: graphs.Graph, texts: Texts) -> None:
        """facts: as `_facts` gives them."""
        self.name = name
        self.image_size: int = facts["image_size"]
        self.mean: tuple[float, float, float] = tuple(facts["mean"])
        self.std: tuple[float, float, float] = tuple(facts["std"])
        self.logit_scale: float = facts["logit_scale"]
        self.interpolation: str = facts["interpolation"]
        self.format: Format = facts["format"]
        if facts["negatives"] is not None:
            self.negatives = facts["negatives"]
        if facts["token_scale"] is not None:
            self.token_scale = facts["token_scale"]
        self.threads = tower.threads  # that compute at once
        self._tower, self._texts = tower, texts

    def encode_crops(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed crops (B, 3, S, S), normalised RGB, float32, on any device.

        Returns unit-norm float32 embeddings (B, D) and unit-norm float32 token embeddings
        (B, h, w, D), or None for a tower whose tokens are not known.
        """
        expected = (3, self.image_size, self.image_size)
        if crops.ndim != 4 or tuple(crops.shape[1:]) != expected:
            raise ValueError(f"crops have shape {tuple(crops.shape)}, not (B, {str(expected)[1:]}")
        array = crops.detach().to("cpu", torch.float32).numpy()
        parts = [
            self._tower(array[start : start + CROPS_AT_ONCE])
            for start in range(0, max(1, len(array)), CROPS_AT_ONCE)
        ]
        embeddings, *tokens = (_unit(np.concatenate(part)) for part in zip(*parts, strict=True))
        return embeddings, tokens[0] if tokens else None

    def encode_prompts(self, texts: list[str]) -> torch.Tensor:
        """Embed P texts as unit-norm float32 vectors (P, D) on the CPU, each text only once.

        A text that is too long is cut, with one warning for the first.
        """
        return self._texts.embed(texts)


@dataclass(frozen=True)
class Source:
    """A checkpoint that may be compiled."""

    name: str  # as results call the model
    identity: str  # changes with its files
    load: Callable[[], TowerEncoder]  # for torch, in float32 on the CPU; called only if need be


def compile_if_possible(
    source: Source,
    device: torch.device,
    dtype: str | torch.dtype,
    calibration: Calibration | None,
) -> CompiledEncoder | None:
    """`load_compiled`, or None, with a warning, where that must be left to torch.

    Raises ValueError for int8 where it cannot be had, and ImportError where OpenVINO is missing
    for it.
    """
    int8 = dtype == "int8"
    if int8 and device.type != "cpu":
        raise ValueError(f"dtype 'int8' is for the CPU, not for {device}")
    if not int8 and not graphs.is_installed():
        warnings.warn(
            f"{source.name} is compiled with torch; on a CPU OpenVINO is faster: {graphs.EXTRA}",
            stacklevel=3,
        )
        return None
    try:
        return load_compiled(source, choose_format(dtype), calibration)
    except RuntimeError as error:
        if int8:
            raise ValueError(f"{source.name} cannot be used in int8: {error}") from error
        warnings.warn(
            f"OpenVINO cannot take {source.name} ({error}), so torch compiles it", stacklevel=3
        )
        return None


def load_compiled(
    source: Source, format: Format, calibration: Calibration | None = None
) -> CompiledEncoder:
    """An encoder from graphs in the cache, or from towers, whose graphs are then kept.

    format: "int8" is 8-bit integers in matrix products and bfloat16 elsewhere, float32 where the
        CPU has no bfloat16.
    calibration: pictures to quantize on; needed for "int8" unless its graph is in the cache.

    Raises ImportError where OpenVINO is missing, RuntimeError where it cannot take the towers, and
    ValueError where int8 would lose too much or has nothing to be calibrated on.
    """
    name, identity = source.name, source.identity
    load = cache(source.load)
    made_of = f"{identity} {format} {_makers()}"
    wanted = calibration.pictures if calibration is not None and format == "int8" else ""
    stored = graph_cache.read(f"image {made_of}")
    if stored is None or wanted not in ("", stored.facts["pictures"]):
        stored = _make_image_graph(name, load(), format, calibration)
        stored.facts["pictures"] = wanted
        graph_cache.write(f"image {made_of}", stored)
    tower = _graph(stored, format)
    # Texts are quick, and quantizing a text tower would make every prompt a little wrong.
    text_format: Format = _floats(format)
    made_of_texts = f"texts {identity} {text_format} {_makers()}"
    texts = Texts(
        name,
        hashlib.sha256(made_of_texts.encode()).hexdigest(),
        cache(partial(_text_tower, made_of_texts, load, text_format)),
    )
    return CompiledEncoder(name, stored.facts, tower, texts)


def choose_format(dtype: str | torch.dtype = "auto") -> Format:
    """The format of graphs for a dtype, "auto" being bfloat16 where the CPU computes in it.

    Raises ValueError for a dtype that graphs on a CPU have not.
    """
    name = str(dtype).removeprefix("torch.")
    if name == "auto":
        return "bfloat16" if graphs.has_bfloat16() else "float32"
    for format in get_args(Format):
        if name == format:
            return format
    raise ValueError(
        f"dtype {name!r} cannot be compiled for a CPU; give 'auto', {str(get_args(Format))[1:-1]}"
    )


def _makers() -> str:
    """Everything besides the checkpoint that a graph depends on."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    versions = (f"{package} {version(package)}" for package in ("torch", "nncf"))
    return " ".join([graphs.capabilities(), *versions, code.hexdigest()])


def _graph(stored: Stored, format: Format) -> graphs.Graph:
    model = graphs.from_bytes(stored.xml, stored.weights)
    return graphs.Graph(model, _floats(format), stored.weights)


def _floats(format: Format) -> graphs.Precision:
    """The number format of what is not in integers."""
    if format != "int8":
        return format
    return "bfloat16" if graphs.has_bfloat16() else "float32"


def _stored(model: Any, format: Format, facts: dict[str, Any]) -> Stored:
    # Half precision has more digits than bfloat16, and OpenVINO keeps what is too large for it.
    xml, weights = graphs.to_bytes(model, half=format == "bfloat16")
    return Stored(xml, weights, facts)


# Images ----------------------------------------------------------------------------------------


def _make_image_graph(
    name: str, encoder: TowerEncoder, format: Format, calibration: Calibration | None
) -> Stored:
    side = encoder.image_size
    random = torch.Generator().manual_seed(0)

    def crops(count: int) -> torch.Tensor:
        return torch.randn(count, 3, side, side, generator=random)

    def run(pixels: torch.Tensor) -> Any:
        embeddings, tokens = encoder.run_tower(pixels)
        return embeddings if tokens is None else (embeddings, tokens)

    model = graphs.trace(run, crops(2), [-1, 3, side, side])
    _check(graphs.Graph(model, _floats(format)), encoder, crops(3))
    if format == "int8":
        model = _quantized(name, model, encoder, calibration)
    return _stored(model, format, _facts(encoder, format))


def _facts(encoder: TowerEncoder, format: Format) -> dict[str, Any]:
    """What a `CompiledEncoder` has to know besides its graph, as JSON."""
    return {
        "format": format,
        "image_size": encoder.image_size,
        "mean": encoder.mean,
        "std": encoder.std,
        "logit_scale": encoder.logit_scale,
        "token_scale": getattr(encoder, "token_scale", None),
        "interpolation": encoder.interpolation,
        "negatives": getattr(encoder, "negatives", None),
    }


def _check(graph: graphs.Graph, encoder: TowerEncoder, crops: torch.Tensor) -> None:
    """Raise RuntimeError where a graph is not its tower."""
    for cosine in _cosines(graph, encoder, crops):
        if not cosine >= FAITHFUL:  # NaN is no likeness either
            raise RuntimeError(f"its graph computes something else (cosine {cosine:.4f})")


def _cosines(graph: graphs.Graph, encoder: TowerEncoder, crops: torch.Tensor) -> list[float]:
    """Mean cosines of a graph's embeddings, and tokens if any, with those of the tower itself."""
    expected = (vectors for vectors in encoder.encode_crops(crops) if vectors is not None)
    found = (_unit(np.asarray(output)) for output in graph(crops.numpy()))
    return [float((one * other).sum(-1).mean()) for one, other in zip(found, expected, strict=True)]


def _quantized(
    name: str, model: Any, encoder: TowerEncoder, calibration: Calibration | None
) -> Any:
    """A graph in int8, if it keeps to the tower in float32 on crops that it was not made with."""
    if calibration is None:
        raise ValueError(
            f"{name} has not been quantized to int8 on this machine yet, which takes pictures "
            "like yours; give a folder with some (--calibrate, in Python calibration)"
        )
    begun = time.perf_counter()
    crops = calibration.crops(encoder)
    held_out = crops[::HELD_OUT]
    used = [crop[None].numpy() for index, crop in enumerate(crops) if index % HELD_OUT]
    if len(used) < MIN_CALIBRATION:
        raise ValueError(
            f"quantizing takes {MIN_CALIBRATION} crops of pictures and more, not {len(used)}"
        )
    for smooth in (False, True):
        quantized = graphs.quantize(model, used, smooth=smooth)
        cosines = _cosines(graphs.Graph(quantized, _floats("int8")), encoder, held_out)
        least = (LEAST_EMBEDDINGS, LEAST_TOKENS)
        keeps = all(cosine >= bar for cosine, bar in zip(cosines, least, strict=False))
        figures = " and ".join(
            f"{cosine:.4f} of {what}"
            for cosine, what in zip(cosines, ("embeddings", "tokens"), strict=False)
        )
        figures = f"cosines with float32 on {len(held_out)} other crops: {figures}"
        if keeps:
            seconds = time.perf_counter() - begun
            warnings.warn(
                f"quantized {name} to int8 on {len(used)} crops in {seconds:.0f} s, "
                f"once on this machine ({figures})",
                stacklevel=2,
            )
            return quantized
    raise ValueError(
        f"{name} loses too much in int8, so use it in another --dtype ({figures}; "
        f"at least {LEAST_EMBEDDINGS} and {LEAST_TOKENS} are asked for)"
    )


def _unit(vectors: Any) -> torch.Tensor:
    return F.normalize(torch.from_numpy(vectors), dim=-1)


# Texts -----------------------------------------------------------------------------------------


def _text_tower(made_of: str, load: Callable[[], TowerEncoder], format: Format) -> TextTower:
    """The text tower as a graph with its tokenizer, or as torch runs it where it cannot be one."""
    stored = graph_cache.read(made_of)
    if stored is None:
        encoder = load()
        try:
            stored = _make_text_graph(encoder.text_tower, encoder.tokenizer, format)
        except RuntimeError:
            return encoder.text_tower
        graph_cache.write(made_of, stored)
    return _stored_text_tower(stored, format)


def _make_text_graph(tower: TextTower, tokenizer: str | None, format: Format) -> Stored:
    """Raises RuntimeError where OpenVINO or the library tokenizers cannot do the same."""
    if tokenizer is None:
        raise RuntimeError("its tokenizer is code")
    texts = [*_CHECKED_TEXTS, "word " * tower.max_length]
    rows, _ = tower.tokenize(texts)
    model = graphs.trace(tower.embed, torch.tensor([rows[0], rows[0]]), [-1, -1])
    facts = {
        "tokenizer": tokenizer,
        "max_length": tower.max_length,
        "vocabulary": tower.vocabulary,
    }
    stored = _stored(model, format, facts)
    compiled = _stored_text_tower(stored, format)
    found, _ = compiled.tokenize(texts)
    if found != rows:
        raise RuntimeError("its tokenizer does more than the library tokenizers")
    for row in rows:
        ids = torch.tensor([row])
        with torch.inference_mode():
            cosine = F.cosine_similarity(compiled.embed(ids), tower.embed(ids).float()).item()
        if not cosine >= FAITHFUL:
            raise RuntimeError(f"its graph computes something else (cosine {cosine:.4f})")
    return stored


def _stored_text_tower(stored: Stored, format: Format) -> TextTower:
    from tokenizers import Tokenizer

    graph = _graph(stored, format)
    tokenizer = Tokenizer.from_str(stored.facts["tokenizer"])

    def tokenize(texts: list[str]) -> tuple[list[list[int]], list[str]]:
        encodings = tokenizer.encode_batch(texts)
        rows = [encoding.ids for encoding in encodings]
        cut = [text for text, row in zip(texts, encodings, strict=True) if row.overflowing]
        return rows, cut

    def embed(ids: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(graph(ids.numpy())[0])

    return TextTower(tokenize, embed, stored.facts["max_length"], stored.facts["vocabulary"])
