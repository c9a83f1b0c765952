"""Make docs/gallery.md: twelve scenes with what the embedded model found, misses included.

python docs/make_gallery.py
"""

from pathlib import Path

import numpy as np

from localize import Localization, Localizer
from localize.boxes import box_iou
from localize.evaluation.scenes import Scene, make_scene
from localize.files import write_bytes, write_image

SEEDS = range(2026, 2038)  # Chosen before the model was trained, and not changed since.
FOLDER = Path(__file__).parent

HEAD = f"""# Gallery

Twelve scenes of seeds {SEEDS[0]} to {SEEDS[-1]}, which were chosen before the model was trained.
Each is asked for the names of its own objects and for as many that are absent from it, with the
embedded model `emoji` and default options. A thing counts as found when a box of its name overlaps
its true box with an intersection over union of at least 0.5. Made by `python docs/make_gallery.py`.
"""


def overlaps(box: tuple[float, ...], truth: tuple[float, ...]) -> bool:
    """Whether two xyxy boxes have an intersection over union of at least 0.5."""
    return bool(box_iou(np.array([box]), np.array([truth]))[0, 0] >= 0.5)


def verdict(scene: Scene, result: Localization) -> str:
    """One line: what was found, what was missed, and which boxes are wrong."""
    missed = [
        name
        for name, xyxy in scene.objects
        if not any(box.label == name and overlaps(box.xyxy, xyxy) for box in result.boxes)
    ]
    wrong = [
        box.label
        for box in result.boxes
        if not any(box.label == name and overlaps(box.xyxy, xyxy) for name, xyxy in scene.objects)
    ]
    found = f"found {len(scene.objects) - len(missed)} of {len(scene.objects)}"
    return "; ".join(
        [found]
        + ([f"missed: {', '.join(missed)}"] if missed else [])
        + ([f"wrong boxes: {', '.join(wrong)}"] if wrong else [])
    )


def main() -> None:
    localizer = Localizer.from_pretrained("emoji")
    sections = [HEAD]
    for seed in SEEDS:
        scene = make_scene(seed)
        names = list(dict.fromkeys(name for name, _ in scene.objects))
        absent = list(scene.absent[: len(names)])
        result = localizer.locate(scene.image, names + absent)
        overlay = result.boxes_overlay()
        overlay.thumbnail((640, 640))
        write_image(FOLDER / "images" / f"scene-{seed}.webp", overlay)
        sections.append(
            f"## {seed}\n\n![Scene {seed}](images/scene-{seed}.webp)\n\n"
            f"Asked: {', '.join(names)}; absent: {', '.join(absent)}.\n\n"
            f"**{verdict(scene, result)}**\n"
        )
    write_bytes(FOLDER / "gallery.md", "\n".join(sections).encode())


if __name__ == "__main__":
    main()
