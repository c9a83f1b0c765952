"""Blend the relevance map of each prompt over a picture; the overlays land in the current folder.

python examples/heatmap_overlay.py examples/stickers.webp fish butterfly guitar
python examples/heatmap_overlay.py photo.jpg "a cat" "a dog" --model openai/clip-vit-base-patch16

stickers.webp is the CC0 photo "Chelsea" by Stéfan van der Walt, which comes with scikit-image, with
two glyphs of Noto Color Emoji stuck on it; the embedded model knows those and no cat in a photo.
"""

import argparse
import sys
from pathlib import Path

from localize import Localizer
from localize.encoders import CheckpointError
from localize.images import ImageError

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("image", type=Path)
parser.add_argument("prompts", nargs="+")
parser.add_argument("--model", default="emoji", help="hub id, local folder, or emoji")
arguments = parser.parse_args()

try:
    localizer = Localizer.from_pretrained(arguments.model)
    encoded = localizer.encode(arguments.image)  # the costly half, once a picture
except (CheckpointError, ImageError) as error:
    sys.exit(str(error))
result = localizer.locate(encoded, arguments.prompts)  # the cheap half, as often as you like

for number, prompt in enumerate(arguments.prompts, 1):
    output = f"{arguments.image.stem}.heatmap-{number}.png"
    result.overlay(prompt).save(output)
    print(f"{prompt}: presence {result.presence[number - 1]:.2f}, overlay in {output}")
