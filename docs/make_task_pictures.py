"""Makes docs/images/like.webp: a crop that is asked, and what it finds in another picture.

python docs/make_task_pictures.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from localize import Localizer, Prompt
from localize.evaluation.scenes import demo_scene, make_scene

PICTURE = Path(__file__).parent / "images" / "like.webp"
SEED, NAME, LABEL = 2029, "butterfly", "our butterfly"
MARGIN, GROUND = 24, "white"


def crop() -> Image.Image:
    """A thing cut out of a scene."""
    scene = make_scene(SEED)
    box = next(box for name, box in scene.objects if name == NAME)
    return Image.fromarray(scene.image).crop(tuple(map(round, box)))


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures, each in the middle of its height."""
    width = left.width + right.width + 3 * MARGIN
    whole = Image.new("RGB", (width, max(left.height, right.height) + 2 * MARGIN), GROUND)
    whole.paste(left, (MARGIN, (whole.height - left.height) // 2))
    whole.paste(right, (left.width + 2 * MARGIN, (whole.height - right.height) // 2))
    return whole


def main() -> None:
    picture = crop()
    localizer = Localizer.from_pretrained("emoji")
    result = localizer.locate(demo_scene().image, Prompt.from_image(picture, LABEL))
    both = beside(picture, result.boxes_overlay().convert("RGB"))
    both.thumbnail((900, 900))
    both.save(PICTURE, quality=80)


if __name__ == "__main__":
    main()
