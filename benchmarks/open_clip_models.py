"""Are models of open_clip embedded as open_clip embeds them, and what does `encode` cost with one?

    python benchmarks/open_clip_models.py

Saves each architecture with random weights in open_clip's layout and loads it twice: as a folder in
`localize`, and with `open_clip.create_model`. Prints the largest difference between two numbers of
the unit-norm embeddings of 4 crops and of 7 prompts, and the shape of a crop's tokens. Then, for
the first architecture and beside it transformers' ViT-B/32 of the same size, the time of `encode`
for a photo of 640 x 480 over that of the encoder alone on the same crops, in turns. Times are the
processor's, of one thread, so that other work on the machine disturbs them less.

Tokenizers that the hub would bring are replaced by one of single letters: ids are what matters.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import string
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from localize.bench import make_photo, random_checkpoint
from localize.crops import batches, crops_of
from localize.encoders import HuggingFaceEncoder, load_encoder
from localize.encoders.torchvision_build import allow_any_torchvision
from localize.localizer import Localizer

ARCHITECTURES = ["ViT-B-32", "ViT-B-16-SigLIP2", "MobileCLIP-S2", "PE-Core-T-16-384"]
PROMPTS = ["a cat", "a photo of a dog", "", "Sky.", "two red cars", "grass", "a cat on a mat"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", default=ARCHITECTURES)
    parser.add_argument("--rounds", type=int, default=9, help="of the timing; 0 for none")
    parsed = parser.parse_args()
    allow_any_torchvision()
    logging.disable(logging.WARNING)  # open_clip's, that weights are random
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / name for name in parsed.architectures]
        for folder, name in zip(folders, parsed.architectures, strict=True):
            save(folder, name)
            compare(folder, name)
        if parsed.rounds:
            time_encode(folders[0], parsed.rounds)


def save(folder: Path, architecture: str) -> None:
    """The architecture with random weights, as a checkpoint on the hub is laid out."""
    import open_clip
    from transformers import Siglip2Tokenizer

    folder.mkdir()
    torch.manual_seed(0)
    model = open_clip.create_model(architecture, load_weights=False, pretrained_text=False)
    weights = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    content = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
    if "hf_tokenizer_name" in content["model_cfg"]["text_cfg"]:
        words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.printable]
        vocabulary = {word: index for index, word in enumerate(words)}
        Siglip2Tokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)


@torch.no_grad()
def compare(folder: Path, architecture: str) -> None:
    import open_clip

    encoder: Any = load_encoder(folder, device="cpu", dtype="float32")
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    side = encoder.image_size
    crops = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    embeddings, tokens = encoder.encode_crops(crops)
    of_crops = (embeddings - F.normalize(model.encode_image(crops), dim=-1)).abs().max()
    expected = F.normalize(model.encode_text(tokenizer(PROMPTS)), dim=-1)
    of_prompts = (encoder.encode_prompts(PROMPTS) - expected).abs().max()
    shape = "none" if tokens is None else " x ".join(map(str, tokens.shape[1:]))
    print(
        f"{architecture:<20} crops {float(of_crops):.1e}   prompts {float(of_prompts):.1e}   "
        f"tokens {shape}",
        flush=True,
    )


def time_encode(folder: Path, rounds: int) -> None:
    contestants: dict[str, Callable[[], object]] = {}
    encoders = {
        f"open_clip's {folder.name}": load_encoder(folder, device="cpu", dtype="float32"),
        "transformers' ViT-B/32": HuggingFaceEncoder(
            random_checkpoint("vit-b-32"), device="cpu", dtype="float32"
        ),
    }
    for name, encoder in encoders.items():
        contestants |= _encode_and_alone(name, encoder)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():  # to warm up
        run()
    for _ in range(rounds):
        for name, run in contestants.items():
            begun = time.process_time()
            run()
            times[name].append(time.process_time() - begun)
    for name in encoders:
        pairs = zip(times[f"encode {name}"], times[f"alone {name}"], strict=True)
        ratio = statistics.median(whole / alone for whole, alone in pairs)
        seconds = statistics.median(times[f"encode {name}"])
        print(f"{name:<26} encode {seconds:.2f} s, {ratio:.3f} times the encoder alone")


def _encode_and_alone(name: str, encoder: Any) -> dict[str, Callable[[], object]]:
    localizer, photo = Localizer(encoder), make_photo(0)
    encoded = localizer.encode(photo)
    crops = crops_of(
        photo, encoded.grids, encoder.mean, encoder.std, encoder.interpolation, encoder.device
    )
    ready = list(batches(crops, localizer.batch_size))
    return {
        f"encode {name}": lambda: localizer.encode(photo),
        f"alone {name}": lambda: [encoder.encode_crops(batch) for batch in ready],
    }


if __name__ == "__main__":
    main()
