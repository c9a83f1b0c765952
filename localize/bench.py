"""How fast the pipeline is beside its own encoder, the published loop and the machine's limit.

Knows the whole pipeline from outside, and clocks; nothing else in the package knows it. Everything
that is compared is run in turns, round after round in one process, because a machine's speed drifts
by more than what is measured; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tokenizers
import torch
import transformers
from PIL import Image
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch.utils.flop_counter import FlopCounterMode

from localize.crops import batches, crops_of
from localize.encoders import HuggingFaceEncoder
from localize.encoders.checkpoint import Checkpoint, load_checkpoint
from localize.encoders.errors import CheckpointError
from localize.encoders.hub import find_files
from localize.encoders.torchvision_build import allow_any_torchvision
from localize.encoding import Encoded
from localize.files import find_images
from localize.images import SUFFIXES
from localize.localizer import Localizer
from localize.prompts import BANK, TEMPLATES

SIZES: dict[str, dict[str, dict[str, int]]] = {
    "vit-b-32": {
        "vision": {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 32},
        "text": {"hidden_size": 512},
    },
    "vit-b-16": {
        "vision": {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 16},
        "text": {"hidden_size": 512},
    },
    "vit-l-14": {
        "vision": {"hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14},
        "text": {"hidden_size": 768},
    },
}
"""The published sizes of CLIP (Radford et al. 2021, arXiv 2103.00020, table 20): heads of 64, MLPs
of 4 times the width, text towers of 12 blocks. Speed does not depend on what weights hold, so these
models are filled with random ones."""

PHOTO = (640, 480)
VOCABULARY = 49_408
PROMPTS = (1, 80, 1000)
MIN_ROUNDS = 5
NUM_FILES, NUM_FILES_QUICK = 100, 4
FILE_LOTS, FULL_BATCHES = 5, 4
"""Files are encoded in so many lots, with the encoder alone on full batches timed before each."""


def bench(
    model: str = "vit-b-32",
    *,
    device: str = "auto",
    dtype: str = "auto",
    compile: bool = False,
    unpickle: bool = False,
    photos: str | None = None,
    seconds: float = 30.0,
    quick: bool = False,
) -> dict[str, Any]:
    """Measure everything in one run; returns plain data, ready for JSON and for `table`.

    model: a name in SIZES for random weights, or what `load_encoder` takes, as it does `compile`
        and `unpickle`.
    photos: a folder of pictures; without one, 100 JPEG files of 640 x 480 are written for the run.
    seconds: rounds go on for at least this long, and never fewer than five.
    quick: one round and few files; figures to look at, not to believe.

    Raises CheckpointError or ValueError when the model cannot be used, ValueError when the folder
    holds no pictures.
    """
    rounds, seconds = (1, 0.0) if quick else (MIN_ROUNDS, seconds)
    with tempfile.TemporaryDirectory() as folder, own_cache(Path(folder) / "cache"):
        files = photos_for(photos, Path(folder), NUM_FILES_QUICK if quick else NUM_FILES)
        encoder = HuggingFaceEncoder(
            checkpoint_of(model, unpickle), device=device, dtype=dtype, compile=compile
        )
        localizer = Localizer(encoder)
        pixels = make_photo(0)
        encoded = localizer.encode(pixels)
        memory = {"encode": _peak_memory(encoder.device)}
        plain = checkpoint_of(model, unpickle)  # tutorials run a model as it is loaded, in float32
        times = in_turns(_contestants(plain, localizer, pixels, encoded), rounds, seconds)
        prompts = _time_prompts(localizer, pixels, encoded, rounds, seconds)
        lots, crops_of_photo = _time_files(localizer, files)
        memory["run"] = _peak_memory(encoder.device)
    settings = {
        "model": model,
        "device": str(encoder.device),
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "compiled": compile,
        "batch_size": localizer.batch_size,
        "crops": encoded.num_crops,
        "rounds": len(times["encode"]),
        "photos": len(files),
        "quick": quick,
    }
    rows = [_row(name, spent, encoded.num_crops) for name, spent in times.items()]
    return {
        "version": 1,
        "machine": machine(encoder.device),
        "settings": settings,
        # The first is the matrix product, which has no crops.
        "rows": [*rows[1:], _row("files on disk", lots["files on disk"], crops_of_photo)],
        "ceiling": _ceiling(times, _matrix_side(encoder), _flops(encoder, encoded.num_crops)),
        "prompts": prompts,
        "ratios": {
            "encode / encoder alone": speed(times["encoder alone"], times["encode"]),
            "files / encoder alone": speed(lots["encoder alone"], lots["files on disk"]),
            "encode / published loop": speed(times["published loop"], times["encode"]),
            "encode / Hugging Face, batched": speed(
                times["Hugging Face, batched"], times["encode"]
            ),
            "locate, 1000 prompts / 1 prompt": prompts["locate_1000_s"] / prompts["locate_1_s"],
        },
        "memory_mib": memory,
    }


def table(report: dict[str, Any]) -> str:
    """The report as text to read."""
    settings, ceiling, prompts = report["settings"], report["ceiling"], report["prompts"]
    machine = report["machine"]
    lines = [
        f"{settings['model']}, {settings['dtype']}, {settings['device']}: "
        f"{settings['crops']} crops of a 640 x 480 picture, batches of {settings['batch_size']}, "
        f"medians of {settings['rounds']} rounds",
        f"{machine['gpu'] or machine['processor']}, {machine['threads']} threads, "
        f"torch {machine['torch']}, transformers {machine['transformers']}, {machine['date']}",
        "",
        f"{'':<38}{'ms a photo':>10}{'crops/s':>10}",
        *(
            f"{row['name']:<38}{1e3 * row['seconds']:>10.1f}{row['crops_per_s']:>10.1f}"
            for row in report["rows"]
        ),
        "",
        f"{'matrix product':<38}{ceiling['matrix_product_tflops']:>10.3f} TFLOP/s",
        f"{'encoder alone':<38}{ceiling['encoder_tflops']:>10.3f} TFLOP/s"
        f"   {ceiling['share']:.2f} of the matrix product",
        "",
        *(
            f"{f'locate, {number} prompts':<38}{1e3 * prompts[f'locate_{number}_s']:>10.1f} ms"
            for number in PROMPTS
        ),
        f"{'asking again, a new prompt':<38}{1e3 * prompts['ask_again_s']:>10.1f} ms",
        f"{'embedding 1000 new prompts':<38}{1e3 * prompts['embed_1000_s']:>10.1f} ms",
        "",
        *(f"{name:<38}{value:>10.2f}" for name, value in report["ratios"].items()),
        "",
        *(
            f"{f'peak memory, {when}':<38}{mib:>10.0f} MiB"
            for when, mib in report["memory_mib"].items()
            if mib is not None
        ),
    ]
    return "\n".join(lines)


# What is compared ------------------------------------------------------------------------------


def _contestants(
    plain: Checkpoint, localizer: Localizer, pixels: npt.NDArray[np.uint8], encoded: Encoded
) -> dict[str, Callable[[], object]]:
    """Name -> one run over the windows of one picture (for the matrix product: one product)."""
    encoder = localizer.encoder
    assert isinstance(encoder, HuggingFaceEncoder)
    ready = _ready_batches(localizer, pixels, encoded)
    side = _matrix_side(encoder)
    matrix = torch.randn(side, side, device=encoder.device).to(encoder.dtype)
    plain.model.to(encoder.device)
    picture = Image.fromarray(pixels)
    windows = whole_pixels(encoded.boxes)
    size, processor = localizer.batch_size, plain.image_processor

    def finished(run: Callable[[], object]) -> Callable[[], None]:
        def run_and_wait() -> None:
            run()
            _wait(encoder.device)

        return run_and_wait

    return {
        "matrix product": finished(lambda: matrix @ matrix),
        "encoder alone": finished(lambda: [encoder.encode_crops(batch) for batch in ready]),
        "encode": finished(lambda: localizer.encode(pixels)),
        "Hugging Face, batched": finished(
            lambda: batched_loop(encoder, processor, picture, windows, size)
        ),
        "published loop": finished(
            lambda: published_loop(plain, picture, windows, "a photo of sky")
        ),
    }


def published_loop(
    checkpoint: Checkpoint,
    picture: Image.Image,
    windows: list[tuple[int, int, int, int]],
    prompt: str,
) -> list[float]:
    """The score of each window as the well-known tutorials compute it, logit_scale * cosine.

    One window a forward, prepared by the checkpoint's own image processor, and the text encoded
    again each time, as in the object detection chapter of Pinecone's "Embedding Methods for Image
    Search" (pinecone.io/learn/series/image-search/zero-shot-object-detection-clip).
    """
    scores = []
    for window in windows:
        crop = picture.crop(window)
        inputs = dict(checkpoint.image_processor(crop, return_tensors="pt"))
        inputs |= checkpoint.tokenizer([prompt], return_tensors="pt", padding=True)
        inputs = {name: tensor.to(checkpoint.model.device) for name, tensor in inputs.items()}
        with torch.no_grad():
            scores.append(checkpoint.model(**inputs).logits_per_image.item())
    return scores


def batched_loop(
    encoder: HuggingFaceEncoder,
    image_processor: Any,
    picture: Image.Image,
    windows: list[tuple[int, int, int, int]],
    batch_size: int,
) -> torch.Tensor:
    """Unit-norm embeddings (N, D) of windows that the image processor prepared, in batches."""
    embeddings = []
    for start in range(0, len(windows), batch_size):
        crops = [picture.crop(window) for window in windows[start : start + batch_size]]
        pixels = image_processor(crops, return_tensors="pt")["pixel_values"]
        embeddings.append(encoder.encode_crops(pixels)[0])
    return torch.cat(embeddings)


def _matrix_side(encoder: HuggingFaceEncoder) -> int:
    """Large enough for the device's full speed."""
    return 8192 if encoder.device.type == "cuda" else 4096


def _ready_batches(
    localizer: Localizer, pixels: npt.NDArray[np.uint8], encoded: Encoded
) -> list[torch.Tensor]:
    """The crops of a picture on the device, in the batches in which `encode` would make them."""
    encoder: Any = localizer.encoder
    crops = crops_of(
        pixels, encoded.grids, encoder.mean, encoder.std, encoder.interpolation, encoder.device
    )
    return list(batches(crops, localizer.batch_size))


def whole_pixels(boxes: npt.NDArray[np.float32]) -> list[tuple[int, int, int, int]]:
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes.round().astype(int).tolist()]


def _time_prompts(
    localizer: Localizer,
    pixels: npt.NDArray[np.uint8],
    encoded: Encoded,
    rounds: int,
    seconds: float,
) -> dict[str, float]:
    """Seconds for a whole `locate` of prompts embedded before, and for what is asked anew."""
    words = (f"thing{number}" for number in count())
    known = [next(words) for _ in range(PROMPTS[-1])]
    start = time.perf_counter()
    localizer.embed_prompts(known)
    embedding = time.perf_counter() - start
    whole = {
        f"locate_{number}_s": lambda number=number: localizer.locate(pixels, known[:number])
        for number in PROMPTS
    }
    again = {"ask_again_s": lambda: localizer.locate(encoded, next(words))}
    times = in_turns({**whole, **again}, rounds, seconds / 2)
    medians = {name: statistics.median(spent) for name, spent in times.items()}
    return {**medians, "embed_1000_s": embedding}


def _time_files(localizer: Localizer, files: list[Path]) -> tuple[dict[str, list[float]], float]:
    """Seconds a photo from its file, lot by lot, and of the encoder alone on as many crops.

    The encoder's batches are all full here, as they are across files. Also returns the mean number
    of crops a photo.
    """
    encoder: Any = localizer.encoder
    side, size = encoder.image_size, localizer.batch_size
    full = torch.randn(size, 3, side, side, device=encoder.device)

    def encode_full() -> None:
        for _ in range(FULL_BATCHES):
            encoder.encode_crops(full)
        _wait(encoder.device)

    encode_full()
    times: dict[str, list[float]] = {"encoder alone": [], "files on disk": []}
    total = 0
    for lot in np.array_split(np.array(files), min(len(files), FILE_LOTS)):
        alone = _seconds(encode_full) / (FULL_BATCHES * size)
        begun = time.perf_counter()
        crops = sum(encoded.num_crops for encoded in localizer.encode_many(lot.tolist()))
        times["files on disk"].append((time.perf_counter() - begun) / len(lot))
        times["encoder alone"].append(alone * crops / len(lot))
        total += crops
    return times, total / len(files)


# Clocks and figures ----------------------------------------------------------------------------


def in_turns(
    contestants: dict[str, Callable[[], object]], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one run of each to warm up."""
    for run in contestants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    begun = time.perf_counter()
    done = 0
    while done < rounds or time.perf_counter() - begun < seconds:
        for name, run in contestants.items():
            times[name].append(_seconds(run))
        done += 1
    return times


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def speed(reference: list[float], ours: list[float]) -> float:
    """How many times as fast as the reference ours is, the median over rounds."""
    return statistics.median(one / other for one, other in zip(reference, ours, strict=True))


def _row(name: str, spent: list[float], crops: float) -> dict[str, Any]:
    median = statistics.median(spent)
    return {
        "name": name,
        "seconds": median,
        "fastest_s": min(spent),
        "slowest_s": max(spent),
        "crops_per_s": crops / median,
    }


def _ceiling(
    times: dict[str, list[float]], matrix_side: int, encoder_flops: int
) -> dict[str, float]:
    """Floating-point operations a second of the matrix product and of the encoder alone."""
    matrix_flops = 2 * matrix_side**3
    products, forwards = times["matrix product"], times["encoder alone"]
    return {
        "matrix_side": matrix_side,
        "matrix_product_tflops": matrix_flops / statistics.median(products) / 1e12,
        "encoder_tflops": encoder_flops / statistics.median(forwards) / 1e12,
        "share": speed(products, forwards) * encoder_flops / matrix_flops,
    }


def _flops(encoder: HuggingFaceEncoder, crops: int) -> int:
    """Floating-point operations of the encoder, tokens included, for so many crops."""
    side = encoder.image_size
    crop = torch.zeros(1, 3, side, side, device=encoder.device, dtype=encoder.dtype)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        encoder.run_tower(crop)  # as it was before compiling, which hides what is computed
    return int(counter.get_total_flops()) * crops


def _peak_memory(device: torch.device) -> float | None:
    """MiB: of the GPU under CUDA, elsewhere of the process; None where it cannot be asked."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def machine(device: torch.device) -> dict[str, Any]:
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    """The processor's name; Linux tells it in a file alone."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


# What is measured with -------------------------------------------------------------------------


def random_checkpoint(size: str, seed: int = 0) -> Checkpoint:
    """A CLIP of a published size with random weights, made in memory; a name in SIZES."""
    allow_any_torchvision()
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.CLIPModel(_config(**SIZES[size])).eval().requires_grad_(False)
    _centre_texts(model, tokenizer)
    return Checkpoint(
        name=f"{size} (random weights)",
        model=model,
        tokenizer=tokenizer,
        image_processor=CLIPImageProcessorPil(),
        negatives=None,
        identity=f"random {size} {seed}",
    )


def _config(vision: dict[str, int], text: dict[str, int]) -> transformers.CLIPConfig:
    def tower(settings: dict[str, int]) -> dict[str, int]:
        width = settings["hidden_size"]
        return {"num_attention_heads": width // 64, "intermediate_size": 4 * width, **settings}

    return transformers.CLIPConfig(
        vision_config=tower(vision) | {"image_size": 224},
        text_config=tower(text) | {"vocab_size": VOCABULARY},
        projection_dim=text["hidden_size"],
        logit_scale_init_value=math.log(100),  # what CLIP's training ends with
    )


def _tokenizer() -> Any:
    """A tokenizer with one id a word: those of the built-in negatives and templates, `thing123`."""
    words = " ".join(["<|unknown|>", *TEMPLATES, *BANK, "an"]).replace("{}", "").split()
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    vocabulary |= {f"thing{index}": index for index in range(len(vocabulary), VOCABULARY - 2)}
    vocabulary |= {"<|startoftext|>": VOCABULARY - 2, "<|endoftext|>": VOCABULARY - 1}
    tokenizer = tokenizers.Tokenizer(WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[(word, vocabulary[word]) for word in ("<|startoftext|>", "<|endoftext|>")],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=77,
    )


def _centre_texts(model: transformers.CLIPModel, tokenizer: Any) -> None:
    """Take away what all texts share, so that their embeddings differ as trained ones do.

    Random weights map all texts to nearly one vector; then every prompt would be a synonym of
    every negative.
    """
    ids = torch.tensor(tokenizer([f"a photo of {word}" for word in BANK[:64]])["input_ids"])
    with torch.inference_mode():
        shared = model.text_model(input_ids=ids).pooler_output.mean(0)
    model.text_model.final_layer_norm.bias.sub_(shared)


def checkpoint_of(model: str, unpickle: bool) -> Checkpoint:
    if model in SIZES:
        return random_checkpoint(model)
    files = find_files(model, unpickle=unpickle)
    if files.layout.library != "transformers":
        raise CheckpointError(
            f"{model} is a model of open_clip; it can be used, but what is measured here beside it "
            "is transformers' preprocessing, so give a model of transformers"
        )
    return load_checkpoint(files)


@contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    """Keep text embeddings out of the user's cache, and the cache out of the figures."""
    before = os.environ.get("LOCALIZE_CACHE")
    os.environ["LOCALIZE_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LOCALIZE_CACHE"]
        else:
            os.environ["LOCALIZE_CACHE"] = before


def make_photo(seed: int) -> npt.NDArray[np.uint8]:
    """A picture uint8 (480, 640, 3) with a photo's mix of detail: noise of every size.

    Noise of amplitude proportional to its wavelength has the 1/f spectrum of natural images
    (Field 1987, doi 10.1364/JOSAA.4.002379), so that a JPEG of it takes about a photo's time to
    decode.
    """
    width, height = PHOTO
    random = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 128.0, np.float32)
    for cell in (1, 2, 4, 8, 16, 32, 64, 128):
        noise = random.normal(size=(-(-height // cell), -(-width // cell), 3)).astype(np.float32)
        picture += 4 * math.sqrt(cell) * cv2.resize(noise, PHOTO, interpolation=cv2.INTER_CUBIC)
    return picture.clip(0, 255).astype(np.uint8)


def photos_for(folder: str | None, scratch: Path, number: int) -> list[Path]:
    """The pictures of the user's folder, or JPEG files written for the run."""
    if folder is not None:
        paths, problems = find_images([folder], SUFFIXES)
        if not paths:
            raise ValueError(problems[0] if problems else f"{folder} holds no pictures")
        return paths[:number]
    paths = [scratch / f"{index:03}.jpg" for index in range(number)]
    for index, path in enumerate(paths):
        Image.fromarray(make_photo(index)).save(path, quality=90)
    return paths
