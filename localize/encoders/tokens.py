"""Dense token embeddings in the prompt space, read from the forward that gives a crop's embedding.

Knows the towers' modules and weights; must not know crops, windows, prompts or files.

Three kinds of tower have tokens:

* `RewiredBlock`: vision transformers with a class token (CLIP, MetaCLIP 2, AltCLIP, Chinese-CLIP,
  CLIPSeg, OWL-ViT, ViT). The class token gathers what the picture shows; its neighbours only learn
  to serve it, so their own last-block outputs do not say where things are. Re-wiring the last
  block's attention makes each patch gather what looks like itself nearby (NACLIP,
  arXiv 2404.08181, equations 3 to 6 and section 3.3; github.com/sinahmr/NACLIP, MIT).
* `ValuePath`: SigLIP's attention pooling: what the pooled vector would be if it looked at one
  token alone.
* `FeatureMap`: convolutional towers: what the pooled vector would be of one cell alone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

GAUSSIAN_SIGMA = 5.0  # in patches; NACLIP's default
DEEP = 16  # blocks from which one re-wired block is not enough
CONVOLUTIONAL = ("convnext", "convnextv2", "align_vision_model")

TokenReader = Callable[[Any], torch.Tensor]  # a tower's output -> tokens (B, h, w, D), any length


def token_reader(model: Any) -> TokenReader | None:
    """The reader of a dual encoder's tokens, or None for a tower that it does not know.

    It takes the output of the model's ``get_image_features`` right after that call, in the same
    thread, and gives tokens (B, h, w, D) in the space of the embeddings, not yet unit-norm.
    """
    tower: Any = getattr(model, "vision_model", None)
    tower = getattr(tower, "vision_model", tower)  # early releases of transformers 5 wrap it
    project = getattr(model, "visual_projection", nn.Identity())
    if getattr(tower, "config", model.config).model_type in CONVOLUTIONAL:
        return FeatureMap(getattr(tower, "layernorm", nn.Identity()), project)
    if hasattr(getattr(tower, "head", None), "probe"):
        return ValuePath(tower.head)
    block = _last_block(tower)
    return None if block is None else RewiredBlock(block, project)


@dataclass(frozen=True)
class _Block:
    """The modules of a vision transformer that `RewiredBlock` works with."""

    layers: list[nn.Module]  # all blocks, first to last
    norm: nn.Module  # of the last block: before its attention
    key: nn.Module
    value: nn.Module
    out: nn.Module
    heads: int
    finish: list[nn.Module]  # what the tower does to its class token after the last block


class RewiredBlock:
    """Tokens of a vision transformer: its last block re-wired as in NACLIP.

    For the input x of the last block, with its layer norm LN, its projections K, V and O, and a
    Gaussian G of the distance in patches between two patches (0 towards the class token):

        tokens = O( softmax( K(LN x) K(LN x)ᵀ / sqrt(d) + G ) V(LN x) )

    with neither residual nor MLP, then the tower's own final norm and projection. Towers of
    `DEEP` blocks and more average it over the inputs of their last quarter of blocks, because a
    single input of theirs is dominated by a few high-norm patches ("registers",
    arXiv 2309.16588). O is linear, so the average is taken before it.
    """

    def __init__(self, block: _Block, project: nn.Module) -> None:
        self._block, self._project = block, project
        self._inputs = threading.local()  # threads share the model, each with its own crops
        depth = len(block.layers)
        self._late = depth // 4 if depth >= DEEP else 1
        for layer in block.layers[-self._late :]:
            layer.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept = getattr(self._inputs, "kept", [])
        self._inputs.kept = [*kept, args[0] if args else kwargs["hidden_states"]][-self._late :]

    def __call__(self, output: Any) -> torch.Tensor:
        inputs, self._inputs.kept = self._inputs.kept, []
        gathered = sum(self._gather(hidden) for hidden in inputs) / len(inputs)
        tokens: torch.Tensor = self._block.out(gathered)
        for module in (*self._block.finish, self._project):
            tokens = module(tokens)
        return _as_grid(tokens)

    def _gather(self, hidden: torch.Tensor) -> torch.Tensor:
        """k-k attention of the patches of `hidden` (B, 1 + N, width), class token first."""
        batch, count, _ = hidden.shape
        normed = self._block.norm(hidden)
        keys, values = (
            projection(normed).view(batch, count, self._block.heads, -1).transpose(1, 2)
            for projection in (self._block.key, self._block.value)
        )
        bias = neighbourhood(math.isqrt(count - 1)).to(keys)
        gathered = F.scaled_dot_product_attention(keys[:, :, 1:], keys, values, attn_mask=bias)
        return gathered.transpose(1, 2).flatten(2)


class ValuePath:
    """Tokens of SigLIP's attention-pooling head: each token alone through its value path.

    The head pools with weights a_i that sum to one: y = O(sum_i a_i V(x_i)), then y + MLP(LN(y)).
    With all the weight on one token that is y_i = O(V(x_i)), and the same residual MLP. The idea is
    MaskCLIP's (arXiv 2112.01071, section 3.2) for this head.
    """

    def __init__(self, head: Any) -> None:
        self._head = head

    def __call__(self, output: Any) -> torch.Tensor:
        hidden: torch.Tensor = output.last_hidden_state  # (B, N, width), after the final norm
        attention, width = self._head.attention, hidden.shape[-1]
        weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
        tokens = attention.out_proj(F.linear(hidden, weight, bias))
        tokens = tokens + self._head.mlp(self._head.layernorm(tokens))
        return _as_grid(tokens)


class FeatureMap:
    """Tokens of a convolutional tower: the cells of its last feature map.

    The tower's embedding is projection(norm(mean of the cells)); a token is
    projection(norm(cell)).
    """

    def __init__(self, norm: nn.Module, project: nn.Module) -> None:
        self._norm, self._project = norm, project

    def __call__(self, output: Any) -> torch.Tensor:
        cells = output.last_hidden_state.permute(0, 2, 3, 1)  # (B, width, h, w) -> (B, h, w, width)
        tokens: torch.Tensor = self._project(self._norm(cells))
        return tokens


@lru_cache(maxsize=8)
def neighbourhood(side: int) -> torch.Tensor:
    """NACLIP's addition to the attention logits, float32 (side², 1 + side²).

    exp(-d² / (2 sigma²)) for two patches d apart on the side x side grid; 0 for the class token,
    which comes first among the keys.
    """
    steps = torch.arange(side, dtype=torch.float32)
    profile = torch.exp(-((steps[:, None] - steps) ** 2) / (2 * GAUSSIAN_SIGMA**2))
    return F.pad(torch.kron(profile, profile), (1, 0))


def _as_grid(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (B, N, D) of a square crop, row by row, as (B, h, w, D)."""
    batch, count, width = tokens.shape
    side = math.isqrt(count)
    return tokens.reshape(batch, side, side, width)


def _last_block(tower: Any) -> _Block | None:
    """The last block of a transformer with one class token, where its modules bear known names."""
    layers = getattr(getattr(tower, "encoder", tower), "layers", None)
    embeddings = getattr(tower, "embeddings", None)
    if not layers or hasattr(embeddings, "distillation_token"):
        return None
    last = layers[-1]
    names = {name for name, _ in last.named_modules()}
    clip = {"self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "layer_norm1"}
    vit = {"attention.k_proj", "attention.v_proj", "attention.o_proj", "layernorm_before"}
    if clip <= names and hasattr(embeddings, "class_embedding"):
        attention, norm, out = last.self_attn, last.layer_norm1, last.self_attn.out_proj
        finish = [tower.post_layernorm]
    elif vit <= names and hasattr(embeddings, "cls_token"):
        attention, norm, out = last.attention, last.layernorm_before, last.attention.o_proj
        # The pooler's two steps, on every token instead of the first one alone.
        finish = [tower.layernorm, tower.pooler.dense, tower.pooler.activation]
    else:
        return None
    heads = tower.config.num_attention_heads
    key, value = attention.k_proj, attention.v_proj
    return _Block(list(layers), norm, key, value, out, heads, finish)
