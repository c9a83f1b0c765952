"""Where transformers' image towers keep the parts that dense tokens are made of.

Knows the towers' modules by name; the recipes are in `tokens`. Must not know crops or files.

Tokens are known for CLIP, MetaCLIP 2, AltCLIP, Chinese-CLIP, CLIPSeg, OWL-ViT, BLIP, and for ViT,
DINOv2 (with registers) and DINOv3 under a VisionTextDualEncoder (`RewiredBlock`); for SigLIP,
SigLIP 2, AIMv2, TIPSv2, ALIGN and ConvNeXt (`EachAlone`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    tower: Any = getattr(model, "vision_model", None)
    tower = getattr(tower, "vision_model", tower)  # early releases of transformers 5 wrap it
    project = getattr(model, "visual_projection", nn.Identity())
    kind = getattr(tower, "config", model.config).model_type
    if kind in _POOLED:
        return _POOLED[kind](tower, project)
    head: Any = getattr(tower, "head", None)
    if hasattr(head, "probe"):
        return EachAlone(head, _siglip_head(head))
    if hasattr(head, "cls_token"):  # AIMv2's head
        return EachAlone(head, chain(head.v_proj, head.output_proj, project))
    return _class_token(tower, project)


def _convnext(tower: Any, project: Step) -> TokenReader:
    return EachAlone(tower.encoder, chain(tower.layernorm, project), of_output=True)


def _dinov3_convnext(tower: Any, project: Step) -> TokenReader:
    return EachAlone(tower.pool, chain(tower.layer_norm, project))


def _align(tower: Any, project: Step) -> TokenReader:
    return EachAlone(tower.pooler, project)


def _tips(tower: Any, project: Step) -> TokenReader:
    """The values of the last block in place of its attention (arXiv 2604.12012).

    TIPSv2 is trained to have its patches in the space of the texts. Residual and MLP stay, and the
    registers, of which the first is a second class token, are no patches.
    """
    block = tower.encoder.layer[-1]
    attend = residual(
        block.norm1, block.attention.v_proj, block.attention.o_proj, block.layer_scale1
    )
    think = residual(block.norm2, block.mlp, block.layer_scale2)
    prefix = 1 + tower.config.num_register_tokens
    return EachAlone(block, chain(attend, think, tower.layernorm, project), prefix=prefix)


_POOLED: dict[str, Callable[[Any, Step], TokenReader]] = {
    "convnext": _convnext,
    "convnextv2": _convnext,
    "dinov3_convnext": _dinov3_convnext,
    "align_vision_model": _align,
    "tipsv2_vision_model": _tips,
}


def _siglip_head(head: Any) -> Step:
    """The head's value path: y = O(V(x)), then y + MLP(LN(y))."""
    attention = head.attention
    values = third(attention.in_proj_weight, attention.in_proj_bias, 2)
    return chain(values, attention.out_proj, residual(head.layernorm, head.mlp))


def _class_token(tower: Any, project: Step) -> RewiredBlock | None:
    """The tokens of a transformer with a class token, where its modules bear known names."""
    encoder = getattr(tower, "encoder", getattr(tower, "model", tower))
    blocks = getattr(encoder, "layers", getattr(encoder, "layer", None))
    embeddings = getattr(tower, "embeddings", None)
    if not blocks or hasattr(embeddings, "distillation_token"):
        return None
    last = blocks[-1]
    names = {name for name, _ in last.named_modules()}
    heads = tower.config.num_attention_heads
    if hasattr(embeddings, "class_embedding") and names >= _CLIP:
        attention = last.self_attn
        parts = Attention(attention.k_proj, attention.v_proj, attention.out_proj, heads)
        return RewiredBlock(blocks, last.layer_norm1, parts, [tower.post_layernorm, project])
    if hasattr(embeddings, "class_embedding") and names >= _BLIP:
        attention = last.self_attn
        keys, values = (third(attention.qkv.weight, attention.qkv.bias, part) for part in (1, 2))
        parts = Attention(keys, values, attention.projection, heads)
        finish = [tower.post_layernorm, tower.post_layernorm, project]  # BLIP applies it twice
        return RewiredBlock(blocks, last.layer_norm1, parts, finish)
    if hasattr(embeddings, "cls_token") and names >= _VIT:
        attention = last.attention
        parts = Attention(attention.k_proj, attention.v_proj, attention.o_proj, heads)
        # The pooler's two steps, on every token instead of the first one alone.
        finish = [tower.layernorm, tower.pooler.dense, tower.pooler.activation, project]
        return RewiredBlock(blocks, last.layernorm_before, parts, finish)
    if hasattr(embeddings, "cls_token") and names >= _DINO:
        attention = last.attention
        out = chain(attention.o_proj, last.layer_scale1)
        parts = Attention(attention.k_proj, attention.v_proj, out, heads)
        final_norm = tower.norm if hasattr(tower, "norm") else tower.layernorm
        registers = getattr(tower.config, "num_register_tokens", 0)
        return RewiredBlock(blocks, last.norm1, parts, [final_norm, project], prefix=1 + registers)
    return None


_CLIP = {"self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "layer_norm1"}
_BLIP = {"self_attn.qkv", "self_attn.projection", "layer_norm1"}
_VIT = {"attention.k_proj", "attention.v_proj", "attention.o_proj", "layernorm_before"}
_DINO = {"attention.k_proj", "attention.v_proj", "attention.o_proj", "layer_scale1", "norm1"}
