"""Where the time of finding something in one photo goes, from the start of Python.

    python benchmarks/quick_start.py --model emoji photo.jpg

Prints the seconds of each step of one run: imports, loading the model, the image encoder, the first
prompts (with the bank of negatives, from the user's cache if it is there), prompts asked again, and
drawing. Then the wall time of `localize --help` against `python -c pass`, medians of 15.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo")
    parser.add_argument("--model", default="emoji", help="a hub id, a folder, or emoji")
    parsed = parser.parse_args()
    print_steps(parsed.photo, parsed.model)
    passes, helps = [], []
    for _ in range(15):
        passes.append(wall("-c", "pass"))
        helps.append(wall("-m", "localize.cli", "--help"))
    ratio = statistics.median(ours / bare for ours, bare in zip(helps, passes, strict=True))
    print(f"{'localize --help':<28}{statistics.median(helps):8.3f} s")
    print(f"{'against python -c pass':<28}{ratio:8.1f} times")


def print_steps(photo: str, model: str) -> None:
    """One `localize detect`, step by step."""
    steps = [("", time.perf_counter())]

    def done(step: str) -> None:
        steps.append((step, time.perf_counter()))

    import torch  # noqa: F401

    done("import torch")
    import transformers.modeling_utils  # noqa: F401

    done("import transformers' models")
    from localize import files
    from localize.localizer import Localizer

    done("import localize")
    localizer = Localizer.from_pretrained(model)
    done("load the model")
    encoded = localizer.encode(photo)
    done("image encoder")
    result = localizer.locate(encoded, ["a dog", "a red car"])
    done("first prompts and negatives")
    localizer.locate(encoded, ["a dog", "a red car"])
    done("prompts again")
    with tempfile.TemporaryDirectory() as folder:
        files.write_image(Path(folder) / "boxes.png", result.boxes_overlay())
        result.save_json(Path(folder) / "boxes.json")
    done("draw and write")
    for (_, begun), (step, ended) in pairwise(steps):
        print(f"{step:<28}{ended - begun:8.3f} s")


def wall(*arguments: str) -> float:
    """Seconds that Python takes for these arguments."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
