"""How fast and how faithful a model is in every number format that the CPU has.

Knows the pipeline from outside, and clocks, as `bench` does, whose way of measuring it shares: all
formats take turns in one process, and a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from localize.bench import (
    MIN_ROUNDS,
    checkpoint_of,
    in_turns,
    machine,
    make_photo,
    own_cache,
    photos_for,
    published_loop,
    speed,
    whole_pixels,
)
from localize.encoders import HuggingFaceEncoder, graphs
from localize.encoders.compiled import CompiledEncoder, Format, Source, load_compiled
from localize.encoders.device import choose_dtype
from localize.encoders.protocol import Encoder
from localize.encoding import Encoded, calibration_of
from localize.images import read_image
from localize.localizer import Localizer

FORMATS: tuple[Format, ...] = ("float32", "bfloat16", "int8")
PUBLISHED = "published loop"
NUM_PHOTOS = 32


def format_bench(
    model: str = "vit-b-32",
    *,
    unpickle: bool = False,
    photos: str | None = None,
    seconds: float = 30.0,
    quick: bool = False,
) -> dict[str, Any]:
    """Encode one photo in every format and by the published loop; plain data, ready for JSON.

    model, photos, seconds, quick: as in `bench.bench`; the photos are what int8 is calibrated on.
    What this machine lacks, or what is refused, is in the report's "missing" with the reason.
    """
    rounds, seconds = (1, 0.0) if quick else (MIN_ROUNDS, seconds)
    with tempfile.TemporaryDirectory() as folder, own_cache(Path(folder) / "cache"):
        files = photos_for(photos, Path(folder), NUM_PHOTOS)
        encoders, missing, load_seconds = _encoders(model, unpickle, files)
        localizers = {name: Localizer(encoder) for name, encoder in encoders.items()}
        pixels = make_photo(0) if photos is None else read_image(files[0]).pixels
        encoded = {name: one.encode(pixels) for name, one in localizers.items()}
        reference = next(iter(encoded.values()))
        runs: dict[str, Callable[[], object]] = {
            name: partial(one.encode, pixels) for name, one in localizers.items()
        }
        plain, picture = checkpoint_of(model, unpickle), Image.fromarray(pixels)
        windows = whole_pixels(reference.boxes)
        runs[PUBLISHED] = partial(published_loop, plain, picture, windows, "a photo of sky")
        times = in_turns(runs, rounds, seconds)
    return {
        "version": 1,
        "machine": machine(torch.device("cpu")) | {"openvino_threads": _threads(encoders)},
        "settings": {
            "model": model,
            "crops": reference.num_crops,
            "rounds": len(times[PUBLISHED]),
            "quick": quick,
        },
        "rows": [
            {
                "name": name,
                "seconds": statistics.median(spent),
                "crops_per_s": reference.num_crops / statistics.median(spent),
                "load_s": load_seconds.get(name),
                "times_as_fast_as": {other: speed(times[other], spent) for other in times},
                **(_cosines(encoded[name], reference) if name in encoded else {}),
            }
            for name, spent in times.items()
        ],
        "missing": missing,
    }


def format_table(report: dict[str, Any]) -> str:
    """The report as text to read."""
    settings, host = report["settings"], report["machine"]
    against = [row["name"] for row in report["rows"] if row["name"].startswith("torch")]
    against.append(PUBLISHED)
    return "\n".join(
        [
            f"{settings['model']}: encode, {settings['crops']} crops of a photo, "
            f"medians of {settings['rounds']} rounds",
            f"{host['processor']}, torch {host['torch']} on {host['threads']} threads, OpenVINO on "
            f"{host['openvino_threads'] or 'none'}, {host['date']}",
            "",
            f"{'':<20}{'crops/s':>9}{'first s':>9}{'embeddings':>12}{'tokens':>9}"
            + "".join(f"{'/ ' + name:>18}" for name in against),
            *(
                f"{row['name']:<20}{row['crops_per_s']:>9.1f}{_figure(row['load_s'], 1):>9}"
                f"{_figure(row.get('embeddings'), 4):>12}{_figure(row.get('tokens'), 4):>9}"
                + "".join(f"{row['times_as_fast_as'][name]:>18.2f}" for name in against)
                for row in report["rows"]
            ),
            "",
            "first s: seconds until the encoder is ready the first time; embeddings, tokens: mean "
            "cosine with torch float32",
            *(f"{name}: {reason}" for name, reason in report["missing"].items()),
        ]
    )


def _encoders(
    model: str, unpickle: bool, files: list[Path]
) -> tuple[dict[str, Encoder], dict[str, str], dict[str, float]]:
    """Encoders by name, torch in float32 first; why others are missing; seconds to load each."""
    makers: dict[str, Callable[[], Encoder]] = {}

    def in_torch(dtype: str) -> HuggingFaceEncoder:
        return HuggingFaceEncoder(checkpoint_of(model, unpickle), device="cpu", dtype=dtype)

    makers["torch float32"] = partial(in_torch, "float32")
    missing = {}
    if choose_dtype("auto", "cpu") == torch.bfloat16:
        makers["torch bfloat16"] = partial(in_torch, "bfloat16")
    else:
        missing["bfloat16"] = "this CPU has no instructions for it"
    if graphs.is_installed():
        source = Source(model, f"bench {model}", partial(in_torch, "float32"))
        calibration = calibration_of(files)
        for format in FORMATS:
            if format != "bfloat16" or graphs.has_bfloat16():
                makers[f"OpenVINO {format}"] = partial(load_compiled, source, format, calibration)
    else:
        missing["OpenVINO"] = f"not installed: {graphs.EXTRA}"
    encoders: dict[str, Encoder] = {}
    load_seconds: dict[str, float] = {}
    for name, make in makers.items():
        begun = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # The table has the figures of quantizing.
                encoders[name] = make()
        except (RuntimeError, ValueError) as error:
            if not encoders:
                raise
            missing[name] = str(error)
        load_seconds[name] = time.perf_counter() - begun
    return encoders, missing, load_seconds


def _threads(encoders: dict[str, Encoder]) -> int | None:
    """Of OpenVINO, where it is there."""
    found = [one.threads for one in encoders.values() if isinstance(one, CompiledEncoder)]
    return found[0] if found else None


def _cosines(one: Encoded, other: Encoded) -> dict[str, float]:
    """Mean cosines of embeddings and tokens."""
    found = {"embeddings": (one.embeddings * other.embeddings).sum(-1).mean().item()}
    if one.tokens is not None and other.tokens is not None:
        found["tokens"] = (one.tokens * other.tokens).sum(-1).mean().item()
    return found


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
