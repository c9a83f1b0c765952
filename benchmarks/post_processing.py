"""What asking costs beside encoding: 80 everyday words on one encoded photo, part by part.

    python benchmarks/post_processing.py --model emoji photo.jpg

Encoding and asking are run in turns; medians of 7 rounds.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Callable

from localize import Localizer
from localize.bench import SIZES, random_checkpoint
from localize.encoders import HuggingFaceEncoder
from localize.prompts import BANK

ROUNDS = 7
NUM_PROMPTS = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo")
    parser.add_argument("--model", default="vit-b-32", help="as `localize bench` takes it")
    parsed = parser.parse_args()
    if parsed.model in SIZES:
        localizer = Localizer(HuggingFaceEncoder(random_checkpoint(parsed.model)))
    else:
        localizer = Localizer.from_pretrained(parsed.model)
    prompts = BANK[:NUM_PROMPTS]
    encoded = localizer.encode(parsed.photo)
    localizer.locate(encoded, prompts)
    times: dict[str, list[float]] = {"encode": [], "locate": []}
    for _ in range(ROUNDS):
        times["encode"].append(seconds(lambda: localizer.encode(parsed.photo)))
        times["locate"].append(seconds(lambda: localizer.locate(encoded, prompts)))
    for name, spent in times.items():
        print(f"{name:<8}{1e3 * statistics.median(spent):8.1f} ms")
    shares = [one / other for one, other in zip(times["locate"], times["encode"], strict=True)]
    share = statistics.median(shares)
    print(f"{NUM_PROMPTS} prompts / encoding {encoded.num_crops} crops: {share:.2f}")
    profile = cProfile.Profile()
    profile.runcall(localizer.locate, encoded, prompts)
    pstats.Stats(profile).sort_stats("cumtime").print_stats("localize", 12)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
