"""How true scores and presence are: what boxes of a score are right, which prompts are there.

    python benchmarks/calibration.py --scenes 200 --seed 50000 --json scenes.json
    python benchmarks/calibration.py --data photos --encoder my_encoder:Tower --json photos.json
    python benchmarks/calibration.py --fit scenes.json photos.json
    python benchmarks/calibration.py --draw docs/images/calibration.png scenes.json photos.json

Each picture is asked for its own names and as many absent ones. --json keeps the score of every
reported box and the presence of every prompt with what was true; --fit finds the constants of
`localize.boxes.chances` from such files, which weigh alike; --draw makes their diagrams.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy.optimize import minimize

from localize import Localizer
from localize.boxes import HALF, STEEPNESS, contrast_of
from localize.evaluation import metrics
from localize.evaluation.coco import read_coco
from localize.evaluation.evaluate import ask, load_object, own_names, scene_samples

IOU = 0.3
BINS = 10
SIDE, MARGIN = 300, 46
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, help="that many generated scenes")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--data", type=Path, help="a folder in COCO's layout")
    parser.add_argument("--encoder", metavar="MODULE:OBJECT", help="default: the embedded model")
    parser.add_argument("--model", default="emoji", help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="where to keep what was measured")
    parser.add_argument("--fit", type=Path, nargs="+", metavar="JSON")
    parser.add_argument("--draw", type=Path, nargs="+", metavar="PNG, JSON")
    parsed = parser.parse_args()
    if parsed.fit:
        half, steepness = fit([json.loads(path.read_text()) for path in parsed.fit])
        print(f"HALF, STEEPNESS = {half:.3f}, {steepness:.2f}; now {HALF}, {STEEPNESS}")
    elif parsed.draw:
        draw(parsed.draw[0], {path.stem: json.loads(path.read_text()) for path in parsed.draw[1:]})
    else:
        found = measure(parsed)
        for name, pairs in found.items():
            print(f"{name}: error {error(pairs):.3f} over {len(pairs)}")
            for least, count, said, true in bins(pairs):
                print(f"  {least:.1f}  {count:5d}  says {said:.2f}  is {true:.2f}")
        if parsed.json:
            parsed.json.write_text(json.dumps(found))


def measure(parsed: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """What was said, in [0, 1], and whether it was true, of reported boxes and of prompts."""
    encoder = load_object(parsed.encoder) if parsed.encoder else None
    localizer = Localizer(encoder) if encoder else Localizer.from_pretrained(parsed.model)
    if parsed.data:
        samples = own_names(read_coco(parsed.data), parsed.seed)
    else:
        samples = scene_samples(parsed.scenes, parsed.seed)
    found: dict[str, list[tuple[float, float]]] = {"score": [], "presence": []}
    for sample in samples:
        _, answer = ask(localizer, sample)
        right = metrics.are_right(sample.truth, answer, IOU)
        judged = ~np.isnan(right)
        found["score"] += zip(answer.scores[judged].tolist(), right[judged].tolist(), strict=True)
        there = sample.truth.present().astype(float)
        found["presence"] += zip(answer.presence.tolist(), there.tolist(), strict=True)
    return found


def bins(pairs: Sequence[Sequence[float]]) -> list[tuple[float, int, float, float]]:
    """Least value, count, mean of what was said and share of what was true, of each bin."""
    said, true = np.array(pairs, float).reshape(-1, 2).T
    which = np.minimum((said * BINS).astype(int), BINS - 1)
    return [
        (number / BINS, int(inside.sum()), float(said[inside].mean()), float(true[inside].mean()))
        for number in range(BINS)
        if (inside := which == number).any()
    ]


def error(pairs: Sequence[Sequence[float]]) -> float:
    """The expected calibration error: |said - true|, averaged over bins by their counts."""
    total = sum(count * abs(said - true) for _, count, said, true in bins(pairs))
    return float(total / max(len(pairs), 1))


def fit(measured: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """HALF and STEEPNESS of the greatest likelihood, each file weighing as much as another."""
    logs, truths = [], []
    for each in measured:
        scores, right = np.array(each["score"], float).T
        logs.append(np.log([contrast_of(score) for score in np.clip(scores, 1e-6, 1 - 1e-6)]))
        truths.append(right)

    def surprise(values: Any) -> float:
        half, steepness = values
        return sum(
            float(np.logaddexp(0, np.where(right == 1, -1, 1) * steepness * (log - half)).mean())
            for log, right in zip(logs, truths, strict=True)
        )

    half, steepness = minimize(surprise, (np.log(HALF), STEEPNESS), method="Nelder-Mead").x
    return float(np.exp(half)), float(steepness)


def draw(path: Path, measured: dict[str, dict[str, Any]]) -> None:
    """Two reliability diagrams beside each other, of scores and of presence, a colour a file."""
    picture = Image.new("RGB", (2 * (SIDE + 2 * MARGIN), SIDE + 2 * MARGIN), "white")
    pen = ImageDraw.Draw(picture)
    titles = {
        "score": "boxes: share right by score",
        "presence": "prompts: share there by presence",
    }
    for column, (key, title) in enumerate(titles.items()):
        left, top = column * (SIDE + 2 * MARGIN) + MARGIN, MARGIN
        pen.rectangle((left, top, left + SIDE, top + SIDE), outline="#888888")
        pen.line((left, top + SIDE, left + SIDE, top), fill="#bbbbbb")
        pen.text((left, top - 30), title, fill="black", font_size=14)
        for tick in (0, 0.5, 1):
            pen.text(
                (left + tick * SIDE - 8, top + SIDE + 6), str(tick), fill="black", font_size=12
            )
            pen.text(
                (left - 26, top + (1 - tick) * SIDE - 7), str(tick), fill="black", font_size=12
            )
        for row, (name, each) in enumerate(measured.items()):
            colour = COLOURS[row % len(COLOURS)]
            found = bins(each[key])
            points = [(left + said * SIDE, top + (1 - true) * SIDE) for _, _, said, true in found]
            pen.line(points, fill=colour, width=2)
            for (x, y), (_, count, *_) in zip(points, found, strict=True):
                size = 2 + 6 * np.sqrt(count / len(each[key]))
                pen.ellipse((x - size, y - size, x + size, y + size), fill=colour)
            text = f"{name}: error {error(each[key]):.3f}"
            pen.text((left + 130, top + SIDE - 60 + 18 * row), text, fill=colour, font_size=13)
    picture.save(path)


if __name__ == "__main__":
    main()
