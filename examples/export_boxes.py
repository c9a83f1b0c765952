"""Write the boxes of each picture to JSON beside it.

python examples/export_boxes.py "a cat" "a dog" --images photos/*.jpg
"""

import argparse
import sys
from pathlib import Path

from localize import Localizer, Options

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("prompts", nargs="+")
parser.add_argument("--images", nargs="+", type=Path, required=True)
parser.add_argument("--model", default="emoji", help="hub id, local folder, or emoji")
parser.add_argument("--threshold", type=float, default=Options().threshold)
arguments = parser.parse_args()

options = Options(threshold=arguments.threshold)
localizer = Localizer.from_pretrained(arguments.model, options=options)
unread = []


def leave_out(path, error):
    unread.append(path)
    print(error, file=sys.stderr)


for result in localizer.locate_many(arguments.images, arguments.prompts, on_error=leave_out):
    output = result.source.with_suffix(".boxes.json")
    result.save_json(output)
    print(f"{result.source}: {len(result.boxes)} boxes in {output}")
sys.exit(1 if unread else 0)
