"""An encoder small enough to reason about, for tests: it sees nothing but colours."""

import torch
import torch.nn.functional as F

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "orange": (255, 128, 0),
    "grey": (128, 128, 128),
}


class ColourEncoder:
    """Embeds crops, and each of their 4 x 4 cells, by their mean colour; prompts by its name."""

    image_size = 32
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    logit_scale = 30.0
    negatives = ("red", "green", "blue", "yellow", "grey")

    def encode_crops(self, crops):
        cells = F.adaptive_avg_pool2d(crops, 4).permute(0, 2, 3, 1)
        return unit(crops.mean((2, 3))), unit(cells)

    def encode_prompts(self, texts):
        colours = [
            next(rgb for name, rgb in COLOURS.items() if name in text.split()) for text in texts
        ]
        return unit(torch.tensor(colours) / 127.5 - 1)


def unit(vectors):
    """The constant gives grey a direction of its own."""
    return F.normalize(F.pad(vectors.float(), (0, 1), value=0.3), dim=-1)
