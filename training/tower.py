"""The image side of the model: the tower, its two losses, and a cheaper way to train it on a CPU.

Knows torch and transformers; knows nothing of glyphs or files.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from crops import Batch
from torch import nn
from transformers import BertConfig, ConvNextConfig, VisionTextDualEncoderConfig
from transformers import VisionTextDualEncoderModel as DualEncoder

WIDTH = 192
MEAN = STD = 0.5


def make_model(vocabulary: int) -> DualEncoder:
    """The untrained model: a ConvNeXt whose last map has stride 8, and a small BERT."""
    vision = ConvNextConfig(
        num_stages=2,
        depths=[2, 5],
        hidden_sizes=[64, WIDTH],
        hidden_size=WIDTH,  # the dual encoder looks here for the width of the pooled vector
        patch_size=4,
        layer_scale_init_value=0.3,
        image_size=96,
    )
    text = BertConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=6,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, text, projection_dim=WIDTH, logit_scale_init_value=3.0
    )
    return DualEncoder(config)


def encode(model: DualEncoder, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (B, D) and tokens (B, h, w, D), unit-norm, of ``pixels`` (B, 3, S, S).

    A token is a cell of the last map put through the same norm and projection as the mean of all
    cells.
    """
    output = model.vision_model(pixel_values=pixels)
    cells = model.vision_model.layernorm(output.last_hidden_state.permute(0, 2, 3, 1))
    project = model.visual_projection
    return (
        F.normalize(project(output.pooler_output).float(), dim=-1),
        F.normalize(project(cells).float(), dim=-1),
    )


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Normalised float32 (B, 3, S, S), channels last, of uint8 (B, S, S, 3)."""
    return (images.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


class Depthwise(torch.autograd.Function):
    """A 7 x 7 depthwise convolution whose weight gradient is estimated on a quarter of the batch.

    On CPUs that gradient takes longer than the rest of the network together. The few weights
    concerned (49 a channel) bear the noise well, and a step becomes about 2.5 times as fast.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=3, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        groups = len(weight)
        back = F.conv2d(gradient, weight.flip(2, 3), None, padding=3, groups=groups)
        part = max(1, len(x) // 4)
        _, weights, biases = torch.ops.aten.convolution_backward(
            gradient[:part], x[:part], weight, [groups], [1, 1], [3, 3], [1, 1], False, [0, 0],
            groups, [False, True, True],
        )  # fmt: skip
        factor = len(x) / part
        return back, weights * factor, biases * factor


def patchwise(x: torch.Tensor, module: nn.Conv2d) -> torch.Tensor:
    """A convolution whose stride is its kernel, as a matrix product (its backward is 10 times
    faster)."""
    count, channels, height, width = x.shape
    side = module.stride[0]
    x = x.permute(0, 2, 3, 1).reshape(count, height // side, side, width // side, side, channels)
    x = x.permute(0, 1, 3, 2, 4, 5).flatten(3)
    weight = module.weight.permute(0, 2, 3, 1).flatten(1)
    return F.linear(x, weight, module.bias).permute(0, 3, 1, 2)


def quicken(model: DualEncoder) -> None:
    """Let the tower train through ``Depthwise`` and ``patchwise``, in bfloat16."""

    def depthwise(x: torch.Tensor, module: nn.Conv2d) -> torch.Tensor:
        half = torch.bfloat16
        return Depthwise.apply(x.to(half), module.weight.to(half), module.bias.to(half))

    for module in model.vision_model.modules():
        if isinstance(module, nn.Conv2d):
            way = depthwise if module.groups > 1 else patchwise
            module.forward = partial(way, module=module)  # type: ignore


def dense_targets(batch: Batch, classes: int) -> torch.Tensor:
    """What each cell should say: float32 (B, h, w, classes), the last class being background.

    Proportional to the area of each object in the cell, twice, and of the background, once: a cell
    is an object's from a third of its area on. Where only a scrap of an object can be seen (less
    than a sixth), its cells sum to less than 1 and so count for less.
    """
    clear = (batch.visible > 1 / 6).float()
    shares = 2 * batch.cells
    bare = 1 - batch.cells.sum(1)
    total = shares.sum(1) + bare
    shares = shares * clear[:, :, None, None] / total[:, None]
    count, _, high, wide = shares.shape
    targets = torch.zeros(count, high, wide, classes)
    index = batch.objects.clamp(min=0)[:, None, None].expand(-1, high, wide, -1)
    targets.scatter_add_(3, index, shares.permute(0, 2, 3, 1))
    targets[..., -1] += bare / total
    return targets


def pooled_targets(batch: Batch, classes: int) -> torch.Tensor:
    """What the whole crop should say: float32 (B, classes), rows summing to 1.

    Each object by its visible area, less where little of it can be seen; background a tenth beside
    objects, and all of it in an empty crop.
    """
    weights = batch.cells.mean((2, 3)) * (2 * batch.visible).clamp(max=1)
    weights = weights * (batch.visible > 1 / 6)
    targets = torch.zeros(len(weights), classes)
    targets.scatter_add_(1, batch.objects.clamp(min=0), weights)
    total = targets.sum(1, keepdim=True)
    targets = 0.9 * targets / total.clamp(min=1e-6)
    targets[:, -1] = 1 - targets.sum(1)
    return targets


def losses(
    model: DualEncoder, prototypes: torch.Tensor, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """The dense and the pooled loss: cross-entropies of scaled cosines with the prototypes.

    A normalised softmax, that is, a contrastive loss against one embedding a name. Half of the
    cells count: those with an object in them and, at random, as many others as there is room for. A
    cell of bare background counts a fifth, there being so many.
    """
    pooled, tokens = encode(model, to_pixels(batch.images))
    names = F.normalize(prototypes, dim=-1)
    scale = model.logit_scale.exp().clamp(max=60)
    targets = dense_targets(batch, len(names)).flatten(0, 2)
    # As many cells each time: CPU kernels and memory are kept for a shape, and never given back.
    keep = ((targets[:, -1] < 1) + torch.rand(len(targets))).topk(len(targets) // 2).indices
    logits = scale * tokens.flatten(0, 2)[keep] @ names.T
    wrong = -(targets[keep] * logits.log_softmax(-1)).sum(-1)
    weight = 1 - 0.8 * targets[keep, -1]
    dense = (weight * wrong).sum() / weight.sum()
    whole = (scale * pooled @ names.T).log_softmax(-1)
    return dense, -(pooled_targets(batch, len(names)) * whole).sum(-1).mean()
