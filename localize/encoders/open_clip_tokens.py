"""Where open_clip's image towers, its own and timm's, keep the parts that dense tokens are made of.

Knows the towers' modules by name; the recipes are in `tokens`. Must not know crops or files.

Tokens are known for towers whose class token is the embedding (`RewiredBlock`: open_clip's own
vision transformers; EVA-02, MobileCLIP-B and other transformers of timm), and for those that pool
their cells (`EachAlone`): by attention (SigLIP, SigLIP 2, PE-Core, CoCa, OpenAI's ResNets) or by
the mean (CLIPA, ViTamin, MobileCLIP-S, ConvNeXt).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from localize.encoders.tokens import (
    Attention,
    EachAlone,
    RewiredBlock,
    Step,
    TokenReader,
    chain,
    residual,
    third,
)


def token_reader(model: Any) -> TokenReader | None:
    """The reader of a dual encoder's tokens, or None for a tower that it does not know."""
    tower: Any = model.visual
    if hasattr(tower, "trunk"):
        return _timm(tower)
    if hasattr(tower, "attnpool"):
        return EachAlone(tower.attnpool, _resnet_head(tower.attnpool))
    return _vision_transformer(tower)


def _vision_transformer(tower: Any) -> TokenReader | None:
    """open_clip's own transformers: a class token, then the patches."""
    blocks = tower.transformer.resblocks
    last = blocks[-1]
    project = nn.Identity() if tower.proj is None else _matrix(tower.proj)
    finish = chain(tower.ln_post, project)
    if tower.attn_pool is not None:
        pool = tower.attn_pool
        if tower.attn_pool_contrastive is not None:
            return None
        return EachAlone(pool, chain(pool.ln_k, _values(pool.attn), finish), prefix=1)
    if tower.pool_type == "avg":
        return EachAlone(tower.transformer, finish, prefix=1, of_output=True)
    if tower.pool_type != "tok" or type(last.attn) is not nn.MultiheadAttention:
        return None
    weight, bias = last.attn.in_proj_weight, last.attn.in_proj_bias
    attention = Attention(
        keys=third(weight, bias, 1),
        values=third(weight, bias, 2),
        out=chain(last.attn.out_proj, last.ls_1),
        heads=last.attn.num_heads,
    )
    return RewiredBlock(blocks, last.ln_1, attention, [finish])


def _timm(tower: Any) -> TokenReader | None:
    """timm's towers, behind which open_clip puts a projection of its own or none."""
    trunk = tower.trunk
    if hasattr(tower.head, "pool"):  # attention over the map that cannot look at one cell
        return None
    if not hasattr(trunk, "num_prefix_tokens"):  # no transformer
        return _convolutional(tower)
    finish = chain(trunk.fc_norm, trunk.head, tower.head)
    if getattr(trunk, "attn_pool", None) is not None:
        return _timm_attention_pool(trunk, finish)
    if trunk.global_pool == "avg":
        return EachAlone(trunk.norm, finish, prefix=trunk.num_prefix_tokens, of_output=True)
    return _timm_class_token(trunk, finish) if trunk.global_pool == "token" else None


def _timm_attention_pool(trunk: Any, finish: Step) -> TokenReader | None:
    pool = trunk.attn_pool
    if type(pool).__name__ != "AttentionPoolLatent" or pool.pos_embed is not None:
        return None
    # EVA's pooling looks at all tokens, that of other transformers mostly at the patches alone.
    prefix = trunk.num_prefix_tokens if getattr(trunk, "pool_include_prefix", True) else 0
    return EachAlone(pool, chain(_latent_head(pool), finish), prefix=prefix)


def _timm_class_token(trunk: Any, finish: Step) -> RewiredBlock | None:
    last = trunk.blocks[-1]
    kind, attn = type(last).__name__, last.attn
    known = type(attn).__name__ in ("Attention", "EvaAttention", "RelPosAttention")
    if not known or getattr(attn, "gate", None) is not None:
        return None
    out = chain(getattr(attn, "norm", nn.Identity()), attn.proj)
    norm: Step = last.norm1
    if kind in ("Block", "RelPosBlock"):
        out = chain(out, last.ls1)
    elif kind == "EvaBlock":
        out = out if last.gamma_1 is None else chain(out, lambda hidden: last.gamma_1 * hidden)
    elif kind == "EvaBlockPostNorm":
        norm, out = nn.Identity(), chain(out, last.norm1)
    else:
        return None
    attention = Attention(_timm_keys(attn), _timm_projection(attn, 2), out, attn.num_heads)
    return RewiredBlock(
        trunk.blocks, norm, attention, [trunk.norm, finish], prefix=trunk.num_prefix_tokens
    )


def _timm_keys(attn: Any) -> Step:
    """The keys, normalised head by head where the layer does so."""
    project = _timm_projection(attn, 1)

    def keys(hidden: torch.Tensor) -> torch.Tensor:
        by_head = project(hidden).unflatten(-1, (attn.num_heads, -1))
        return attn.k_norm(by_head).flatten(-2)  # type: ignore[no-any-return]

    return keys


def _timm_projection(attn: Any, part: int) -> Step:
    """The projection to keys (1) or values (2); EVA keeps it apart, or its biases."""
    if attn.qkv is None:
        return attn.k_proj if part == 1 else attn.v_proj  # type: ignore[no-any-return]
    bias = attn.qkv.bias
    if getattr(attn, "q_bias", None) is not None:
        bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    return third(attn.qkv.weight, bias, part)


def _convolutional(tower: Any) -> TokenReader | None:
    """ConvNeXt, FastViT and their like: a head that takes the mean of a map (B, C, h, w)."""
    head: Any = getattr(tower.trunk, "head", None)
    known = type(head).__name__ in ("ClassifierHead", "NormMlpClassifierHead")
    if not known or getattr(head, "input_fmt", "NCHW") != "NCHW":  # Swin's maps are (B, h, w, C)
        return None

    def finish(cells: torch.Tensor) -> torch.Tensor:
        maps = cells.flatten(0, 1)[:, :, None, None]  # each cell a map of its own
        # Without hooks, of which one keeps what the head is given.
        embedded = tower.head(head.forward(maps))
        return embedded.unflatten(0, cells.shape[:2])  # type: ignore[no-any-return]

    return EachAlone(head, finish)


def _latent_head(pool: Any) -> Step:
    """The value path of timm's attention pooling: y = O(V(x)), then y + MLP(LN(y))."""
    width = pool.kv.out_features // 2

    def values(hidden: torch.Tensor) -> torch.Tensor:
        bias = None if pool.kv.bias is None else pool.kv.bias[width:]
        return F.linear(hidden, pool.kv.weight[width:], bias)

    if pool.mlp is None:
        return chain(values, pool.proj)
    return chain(values, pool.proj, residual(pool.norm, pool.mlp))


def _resnet_head(pool: Any) -> Step:
    """The value path of OpenAI's ResNets, as in MaskCLIP; each cell has its position."""

    def placed(cells: torch.Tensor) -> torch.Tensor:
        return cells + pool.positional_embedding[1:].to(cells.dtype)

    return chain(placed, pool.v_proj, pool.c_proj)


def _values(attention: nn.MultiheadAttention) -> Step:
    """What attention gives that looks at one token alone."""
    bias = attention.in_proj_bias
    if attention.in_proj_weight is not None:
        return chain(third(attention.in_proj_weight, bias, 2), attention.out_proj)
    weight = attention.v_proj_weight  # type: ignore[unreachable]  # where widths differ

    def values(hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, weight, bias[-len(weight) :])

    return chain(values, attention.out_proj)


def _matrix(weight: torch.Tensor) -> Step:
    return lambda hidden: hidden @ weight
