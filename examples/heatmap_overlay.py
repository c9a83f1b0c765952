"""Blend the relevance map of each prompt over a picture.

python examples/heatmap_overlay.py photo.jpg "a cat" "a dog" --model openai/clip-vit-base-patch16
"""

import argparse
from pathlib import Path

from localize import Localizer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("image", type=Path)
parser.add_argument("prompts", nargs="+")
parser.add_argument("--model", default="emoji", help="hub id, local folder, or emoji")
arguments = parser.parse_args()

localizer = Localizer.from_pretrained(arguments.model)
encoded = localizer.encode(arguments.image)  # the costly half, once a picture
result = localizer.locate(encoded, arguments.prompts)  # the cheap half, as often as you like

for number, prompt in enumerate(arguments.prompts, 1):
    output = arguments.image.with_name(f"{arguments.image.stem}.heatmap-{number}.png")
    result.overlay(prompt).save(output)
    print(f"{prompt}: presence {result.presence[number - 1]:.2f}, overlay in {output}")
