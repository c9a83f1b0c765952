"""What a person waits for: `localize detect` on one photo and on many, the first time and later.

    python benchmarks/first_and_later.py --size vit-b-32 --photos 20

Makes a CLIP of that size with random weights and photos of noise with a photo's mix of detail, and
runs the command in a new process each time, with a cache folder of its own for each number format.
The first run of a format finds the cache empty: it compiles, quantizes, and reads the bank of
negatives. Prints seconds of wall time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from localize.bench import SIZES, make_photo, random_checkpoint

FORMATS = {
    "torch, float32": ("--dtype", "float32"),
    "torch": (),
    "--compile": ("--compile",),
    "--dtype int8": ("--dtype", "int8"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="vit-b-32")
    parser.add_argument("--photos", type=int, default=100, help="default: %(default)s")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model"
        checkpoint = random_checkpoint(parsed.size)
        for part in (checkpoint.model, checkpoint.tokenizer, checkpoint.image_processor):
            part.save_pretrained(model)
        photos = folder / "photos"
        photos.mkdir()
        for number in range(parsed.photos):
            Image.fromarray(make_photo(number)).save(photos / f"{number:03}.jpg", quality=92)
        print(f"| {parsed.size} | one photo, first run | later | {parsed.photos} photos, later |")
        print("|---|---|---|---|")
        for label, options in FORMATS.items():
            one, many = photos / "000.jpg", photos
            calibrate = ("--calibrate", str(photos)) if "int8" in options else ()
            cache = folder / f"cache {label}"
            waited = [
                seconds(model, source, (*options, *calibrate), cache, folder)
                for source in (one, one, many)
            ]
            print(f"| {label} | " + " | ".join(f"{each:.1f}" for each in waited) + " |", flush=True)


def seconds(
    model: Path, source: Path, options: tuple[str, ...], cache: Path, folder: Path
) -> float:
    """Wall time of one `localize detect` in a new process."""
    output = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, "-m", "localize", "detect", str(source), "-p", "a red kite"]
    command += ["--model", str(model), "--quiet", "--output", output, *options]
    environment = os.environ | {"LOCALIZE_CACHE": str(cache)}
    begun = time.perf_counter()
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
