"""Dense token embeddings in the prompt space, read from the forward that gives a crop's embedding.

Knows tensors and the parts of a tower it is handed; must not know where a library keeps those
parts, nor crops, windows, prompts or files.

There are two recipes:

* `RewiredBlock`: vision transformers whose class token is the embedding. The class token gathers
  what the picture shows; its neighbours only learn to serve it, so their own last-block outputs do
  not say where things are. Re-wiring the last block's attention makes each patch gather what looks
  like itself nearby (NACLIP, arXiv 2404.08181, equations 3 to 6 and section 3.3;
  github.com/sinahmr/NACLIP, MIT).
* `EachAlone`: towers that pool their cells, by attention or by the mean. A token is what the pooled
  vector would be of one cell alone. Attention that can look at one token only returns that token's
  value, so for a head of attention this is its value path, as in MaskCLIP (arXiv 2112.01071,
  section 3.2).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

GAUSSIAN_SIGMA = 5.0  # in patches; NACLIP's default
OUTLIER = 1.75  # times the norm of patches nearby: from there on a patch is mended
BLUNTNESS = 0.4
"""The logit scale of re-wired tokens as a part of the pooled vector's. CLIP's is 100, and methods
that segment by its tokens score them at 40 to 65 (NACLIP, SCLIP, SC-CLIP, ClearCLIP, ProxyCLIP,
Trident, CorrCLIP, ResCLIP): nothing taught the block to be read like that, so it is less sure. On
two trained ViTs it is worth .03 and .05 of AP50 (docs/ablation.md)."""
DEEP = 16  # blocks from which one re-wired block is not enough

Step = Callable[[torch.Tensor], torch.Tensor]
TokenReader = Callable[[], torch.Tensor]
"""Tokens (B, h, w, D) in the space of the embeddings, not yet unit-norm, of the crops (B, 3, S, S)
that the image tower was last run on in the same thread."""


@dataclass(frozen=True)
class Attention:
    """The projections of a layer of attention, each (B, N, width) -> (B, N, width)."""

    keys: Step
    values: Step
    out: Step  # with all that the layer does before its result is added to its input
    heads: int


class RewiredBlock:
    """Tokens of a vision transformer: its last block re-wired as in NACLIP.

    For the input x of the last block, its outliers `mended`, with its layer norm LN, its
    projections K, V and O, and a Gaussian G of the distance in patches between two patches (0
    towards the class token):

        tokens = O( softmax( K(LN x) K(LN x)ᵀ / sqrt(d) + G ) V(LN x) )

    with neither residual nor MLP, then the tower's own final norm and projection. Keys are as they
    are projected, before any rotary position embedding: G alone says how near two patches are.
    Towers of `DEEP` blocks and more average it over the inputs of their last quarter of blocks,
    because a single input of theirs is dominated by a few high-norm patches ("registers",
    arXiv 2309.16588). O is linear, so the average is taken before it.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        norm: Step,
        attention: Attention,
        finish: Sequence[Step],
        *,
        prefix: int = 1,
    ) -> None:
        """
        blocks: all blocks of the tower, first to last.
        norm, attention: of the last block.
        finish: what happens to the class token after the last block, up to the embedding.
        prefix: class and register tokens, which come before the patches.
        """
        late = len(blocks) // 4 if len(blocks) >= DEEP else 1
        self._inputs = _keep_inputs(list(blocks)[-late:])
        self._norm, self._attention, self._finish = norm, attention, finish
        self._prefix = prefix

    def __call__(self) -> torch.Tensor:
        inputs = self._inputs.take()
        gathered = torch.stack([self._gather(hidden) for hidden in inputs]).mean(0)
        return as_grid(chain(self._attention.out, *self._finish)(gathered))

    def _gather(self, hidden: torch.Tensor) -> torch.Tensor:
        """k-k attention of the patches of `hidden` (B, prefix + N, width)."""
        batch, count, _ = hidden.shape
        first, patches = hidden.split([self._prefix, count - self._prefix], 1)
        normed = self._norm(torch.cat([first, mended(patches)], 1))
        keys, values = (
            project(normed).view(batch, count, self._attention.heads, -1).transpose(1, 2)
            for project in (self._attention.keys, self._attention.values)
        )
        bias = neighbourhood(math.isqrt(count - self._prefix), self._prefix, keys.device).to(keys)
        gathered = F.scaled_dot_product_attention(
            keys[:, :, self._prefix :], keys, values, attn_mask=bias
        )
        return gathered.transpose(1, 2).flatten(2)


class EachAlone:
    """Tokens of a tower that pools its cells: what the pooled vector would be of one cell alone."""

    def __init__(
        self, pool: nn.Module, finish: Step, *, prefix: int = 0, of_output: bool = False
    ) -> None:
        """
        pool: the module whose input is the cells: (B, prefix + N, width), or (B, width, h, w).
        finish: what is done from there to the embedding where there is one cell, for (B, N, width).
        prefix: class and register tokens among the cells, which are no cells.
        of_output: the cells are the module's output instead.
        """
        self._cells = (_keep_outputs if of_output else _keep_inputs)([pool])
        self._finish, self._prefix = finish, prefix

    def __call__(self) -> torch.Tensor:
        (cells,) = self._cells.take()
        if cells.ndim == 4:
            cells = cells.flatten(2).transpose(1, 2)
        return as_grid(self._finish(cells[:, self._prefix :]))


def chain(*steps: Step) -> Step:
    """The steps one after the other."""

    def run(hidden: torch.Tensor) -> torch.Tensor:
        for step in steps:
            hidden = step(hidden)
        return hidden

    return run


def residual(*steps: Step) -> Step:
    """What the steps do, added to their input."""
    inner = chain(*steps)
    return lambda hidden: hidden + inner(hidden)


def third(weight: torch.Tensor, bias: torch.Tensor | None, part: int) -> Step:
    """One of the projections to queries (0), keys (1) and values (2) stacked in one matrix."""
    width = len(weight) // 3
    rows = slice(part * width, (part + 1) * width)
    return lambda hidden: F.linear(hidden, weight[rows], None if bias is None else bias[rows])


def mended(patches: torch.Tensor) -> torch.Tensor:
    """Patches (B, N, width) of square crops with the outliers among them replaced.

    Large vision transformers keep notes about the whole picture in a few patches, which then tell
    nothing of their own places (arXiv 2309.16588); in OpenAI's ViT-L/14 they have two to four times
    the others' norm. A patch whose norm exceeds `OUTLIER` times the third largest norm among the
    3 x 3 patches around it, itself included, becomes the mean of those of its eight neighbours that
    are sound, as in SC-CLIP (arXiv 2411.15869), which replaces 5 % of the patches, found by their
    local density. Comparing with neighbours spares things before a plain background, whose norms
    are large as well.
    """
    norms = torch.linalg.vector_norm(patches.float(), dim=-1, keepdim=True)
    third_largest = F.unfold(_as_map(norms), 3, padding=1).sort(1).values[:, 6, :, None]
    sound = (norms <= OUTLIER * third_largest).to(patches)
    total, count = _around(patches * sound), _around(sound)
    outlier = (sound == 0) & (count > 0)
    return torch.where(outlier, total / count.clamp_min(1), patches)


def _as_map(patches: torch.Tensor) -> torch.Tensor:
    """Patches (B, N, C) of a square crop as (B, C, h, w)."""
    return as_grid(patches).permute(0, 3, 1, 2)


def _around(patches: torch.Tensor) -> torch.Tensor:
    """The sum (B, N, C) of each patch of a square crop and its neighbours."""
    return 9 * F.avg_pool2d(_as_map(patches), 3, 1, 1).flatten(2).transpose(1, 2)


@lru_cache(maxsize=8)
def neighbourhood(
    side: int,
    prefix: int = 1,
    device: torch.device | None = None,
) -> torch.Tensor:
    """NACLIP's addition to the attention logits, float32 (side², prefix + side²).

    exp(-d² / (2 sigma²)) for two patches d apart on the side x side grid; 0 for the class token
    and registers, which come first among the keys. On the device, as a copy to a GPU would wait for
    all that it is at.
    """
    steps = torch.arange(side, dtype=torch.float32, device=device)
    profile = torch.exp(-((steps[:, None] - steps) ** 2) / (2 * GAUSSIAN_SIGMA**2))
    return F.pad(torch.kron(profile, profile), (prefix, 0))


def as_grid(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (B, N, D) of a square crop, row by row, as (B, h, w, D)."""
    batch, count, width = tokens.shape
    side = math.isqrt(count)
    return tokens.reshape(batch, side, side, width)


class _OfThread(threading.local):
    """There from the first forward on, so that a compiled one finds nothing changed at its second
    and is not compiled again."""

    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []


class _Kept:
    """What went through some modules in the last forward, by thread.

    Threads share the model, each with its own crops.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._of_thread = _OfThread()

    def add(self, hidden: torch.Tensor) -> None:
        self._of_thread.kept = [*self._of_thread.kept, hidden][-self._count :]

    def take(self) -> list[torch.Tensor]:
        kept, self._of_thread.kept = self._of_thread.kept, []
        return kept


def _keep_inputs(modules: list[nn.Module]) -> _Kept:
    """Keep the first argument of each of the modules."""
    kept = _Kept(len(modules))

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.add(args[0] if args else next(iter(kwargs.values())))

    for module in modules:
        module.register_forward_pre_hook(look, with_kwargs=True)
    return kept


def _keep_outputs(modules: list[nn.Module]) -> _Kept:
    """Keep the output of each of the modules, or the first of its outputs."""
    kept = _Kept(len(modules))

    def look(_: nn.Module, __: Any, output: Any) -> None:
        kept.add(output if isinstance(output, torch.Tensor) else output[0])

    for module in modules:
        module.register_forward_hook(look)
    return kept
