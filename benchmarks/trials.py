"""What others do with CLIP's tokens and scores, tried on top of the recipe.

    python benchmarks/trials.py --data photos --encoder my_encoder:Tower
    python benchmarks/trials.py --scenes 100 --model training/vit

Rows as in ablation.py; each has one trial added. What is kept has moved into the package, so these
are the ones that are not. See docs/ablation.md.
"""

from __future__ import annotations

from dataclasses import replace

import ablation
import numpy as np
import torch
import torch.nn.functional as F
from ablation import Decision

from localize import Localizer, edges, relevance
from localize.encoding import Encoded
from localize.result import Localization

UNLIKE = 0.07
"""TextRegion's limit: a token must be this much more like its region than like the rest."""

LOOKED_AT = 30
"""Boxes of a picture, the best ones, that are looked at again; the rest keep half their score."""


def of_no_region(encoded: Encoded) -> Encoded:
    """TextRegion's test (arXiv 2505.23769): tokens no more like their own region than like the rest
    of their window are not believed; the window's embedding stands in for them. Regions are the
    superpixels of the coarsest segmentation."""
    if encoded.tokens is None:
        return encoded
    segments = encoded.superpixels[edges.COARSENESS.index(max(edges.COARSENESS))].segments
    height, width = encoded.picture.pixels.shape[:2]
    rows, columns = encoded.tokens.shape[1:3]
    tokens = encoded.tokens.flatten(1, 2)
    kept = []
    for (left, top, right, bottom), own, window in zip(
        encoded.boxes, tokens, encoded.embeddings, strict=True
    ):
        y = (top + (np.arange(rows) + 0.5) / rows * (bottom - top)) * segments.shape[0] / height
        x = (left + (np.arange(columns) + 0.5) / columns * (right - left)) * segments.shape[1]
        at = np.ix_(
            y.astype(int).clip(0, segments.shape[0] - 1),
            (x / width).astype(int).clip(0, segments.shape[1] - 1),
        )
        region = torch.from_numpy(segments[at].ravel())
        alike, same = own @ own.T, region[:, None] == region
        inside = (alike * same).sum(1) / same.sum(1)
        outside = (alike * ~same).sum(1) / (~same).sum(1).clamp_min(1)
        doubted = ((~same).any(1) & (inside - outside < UNLIKE))[:, None]
        kept.append(torch.where(doubted, window, own))
    return replace(encoded, tokens=torch.stack(kept).view_as(encoded.tokens))


def second_look(machine: Localizer, encoded: Encoded, result: Localization) -> Localization:
    """TagCLIP's (arXiv 2312.12828): the crop of each box is encoded, and its probability averaged
    half and half with the box's score. It costs a pass through the encoder for every box."""
    boxes = list(result.boxes)
    looked_at = boxes[:LOOKED_AT]
    if not looked_at:
        return result
    encoder, pixels = machine.encoder, torch.from_numpy(encoded.picture.pixels).permute(2, 0, 1)
    mean, std = (torch.tensor(part)[:, None, None] for part in (encoder.mean, encoder.std))
    side, crops = encoder.image_size, []
    for box in looked_at:
        left, top, right, bottom = (round(value) for value in box.xyxy)
        cut = pixels[:, top : max(bottom, top + 1), left : max(right, left + 1)].float()
        small = F.interpolate(cut[None] / 255, (side, side), mode="bilinear", antialias=True)[0]
        crops.append((small - mean) / std)
    seen, _ = machine._encode_batch(torch.stack(crops))
    scores = machine.contest(list(result.prompts)).scores(seen, encoder.logit_scale)
    number = {label: place for place, label in enumerate(result.prompts)}
    boxes = [
        replace(box, score=(box.score + float(scores[place, number[box.label]])) / 2)
        if place < LOOKED_AT
        else replace(box, score=box.score / 2)
        for place, box in enumerate(boxes)
    ]
    return replace(result, boxes=sorted(boxes, key=lambda box: -box.score))


def absolute(
    embeddings: torch.Tensor,
    prompts: torch.Tensor,
    negatives: torch.Tensor,
    against: torch.Tensor,
    logit_scale: float,
    temper: float = 1.0,
    opposition: relevance.Opposition | None = None,
    unlike: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """In place of `probabilities`: SigLIP's sigmoid(s cos + b), the rivals' mean logarithm of their
    sum in place of its learned bias b, the same for all places."""
    rivals = torch.logsumexp(logit_scale * embeddings @ negatives.T, -1)
    return torch.sigmoid(temper * (logit_scale * embeddings @ prompts.T - rivals.mean()))


TRIALS: tuple[Decision, ...] = (
    Decision("as it is"),
    Decision("TagCLIP's second look at each box", afterwards=second_look),
    Decision("TextRegion's test of tokens", before=of_no_region),
    Decision("an absolute sigmoid", constants=[(relevance, "probabilities", absolute)]),
)


if __name__ == "__main__":
    ablation.main(TRIALS, __doc__)
