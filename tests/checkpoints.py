"""Tiny randomly initialised checkpoints of every family, for tests.

Real model, tokenizer and processor classes of transformers, saved the way a hub checkpoint is.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import (
    EfficientNetImageProcessorPil,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

SIZE = 32  # side in pixels of the crops that the tiny models take
WIDTH = 32
CHARACTERS = string.ascii_lowercase + string.digits + ".,'-"

FAMILIES = (
    "clip",
    "clip_deep",
    "siglip",
    "siglip2",
    "metaclip_2",
    "altclip",
    "chinese_clip",
    "align",
    "clipseg",
    "convnext",  # VisionTextDualEncoder with a ConvNeXt tower, as the embedded model is
    "vit",  # VisionTextDualEncoder with a ViT tower, and so on
    "dinov2",
    "dinov2_registers",
    "dinov3",
    "dinov3_convnext",
    "aimv2",
    "blip",
    "tipsv2",
)


def tiny_checkpoint(folder: str | Path, family: str = "clip", seed: int = 0) -> Path:
    """Save a tiny random dual encoder of a family into `folder` (made if missing); returns it."""
    folder = Path(folder)
    tokenizer = _TOKENIZERS.get(family, _clip_tokenizer)()
    torch.manual_seed(seed)
    model = _build(family, tokenizer)
    with torch.no_grad():  # as trained ones have: no all-zero biases, no dead layer scales
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and not name.endswith(("probe", "layernorm.weight")):
                parameter.add_(0.05 * torch.randn_like(parameter))
            elif "layer_scale" in name:
                parameter.fill_(0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _IMAGE_PROCESSORS.get(family, _clip_image_processor)().save_pretrained(folder)
    return folder


def _build(family: str, tokenizer: Any) -> Any:
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text = _tower(vocab_size=len(tokenizer), max_position_embeddings=40)
    vision = _tower(num_hidden_layers=16 if family == "clip_deep" else 2) | {"patch_size": 8}
    if family in DUAL_ENCODER_TOWERS:
        config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
            DUAL_ENCODER_TOWERS[family](vision), transformers.BertConfig(**text), projection_dim=24
        )
        return transformers.VisionTextDualEncoderModel(config)
    prefix, text_settings, vision_settings, settings = {
        "clip": ("CLIP", special, {}, {"projection_dim": 24}),
        "clip_deep": ("CLIP", special, {}, {"projection_dim": 24}),
        "metaclip_2": ("MetaClip2", special, {}, {"projection_dim": 24}),
        "clipseg": ("CLIPSeg", special, {}, {"projection_dim": 24}),
        "altclip": ("AltCLIP", special | ALTCLIP_TEXT, {}, {"projection_dim": 24}),
        "chinese_clip": ("ChineseCLIP", {}, {}, {"projection_dim": 24}),
        "siglip": ("Siglip", special, {}, {}),
        "siglip2": ("Siglip2", special, {"num_patches": 16}, {}),
        "align": ("Align", {}, ALIGN_VISION, {"projection_dim": WIDTH}),
        "aimv2": ("Aimv2", special, {}, {"projection_dim": 24}),
        "blip": ("Blip", special, {}, {"projection_dim": 24}),
        "tipsv2": ("Tipsv2", {}, {"mlp_ratio": 1.5, "num_register_tokens": 1}, {}),
    }[family]
    config_class = getattr(transformers, f"{prefix}Config")
    model_class = getattr(transformers, f"{prefix}Model")
    return model_class(
        config_class(
            text_config=text | text_settings, vision_config=vision | vision_settings, **settings
        )
    )


def _tower(**settings: Any) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIZE,
    } | settings


def _convnext(_: dict[str, Any]) -> Any:
    config = transformers.ConvNextConfig(
        num_stages=2, depths=[1, 1], hidden_sizes=[16, WIDTH], patch_size=4, image_size=SIZE
    )
    config.hidden_size = WIDTH  # what VisionTextDualEncoder sizes its projection by
    return config


def _dinov3_convnext(_: dict[str, Any]) -> Any:
    config = transformers.DINOv3ConvNextConfig(
        depths=[1, 1], hidden_sizes=[16, WIDTH], image_size=SIZE
    )
    config.hidden_size = WIDTH
    return config


DUAL_ENCODER_TOWERS = {
    "convnext": _convnext,
    "vit": lambda vision: transformers.ViTConfig(**vision),
    "dinov2": lambda vision: transformers.Dinov2Config(**vision),
    "dinov2_registers": lambda vision: transformers.Dinov2WithRegistersConfig(**vision),
    "dinov3": lambda vision: transformers.DINOv3ViTConfig(**vision, num_register_tokens=4),
    "dinov3_convnext": _dinov3_convnext,
}
ALTCLIP_TEXT = {"project_dim": WIDTH, "type_vocab_size": 1}
ALIGN_VISION = {
    "kernel_sizes": [3, 3],
    "in_channels": [32, 16],
    "out_channels": [16, WIDTH],
    "depthwise_padding": [],
    "strides": [1, 2],
    "num_block_repeats": [1, 1],
    "expand_ratios": [1, 2],
    "hidden_dim": WIDTH,
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
}


def _clip_tokenizer() -> Any:
    alphabet = [*CHARACTERS, *(character + "</w>" for character in CHARACTERS)]
    words = [*alphabet, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=40)


def _bert_tokenizer() -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *CHARACTERS, *("##" + character for character in CHARACTERS)]
    vocabulary = {word: index for index, word in enumerate(words)}
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=40)


def _roberta_tokenizer() -> Any:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = [(word, 0.0) for word in [*special, "▁", *CHARACTERS]]
    return transformers.XLMRobertaTokenizer(vocab=vocabulary, model_max_length=38)


def _siglip_tokenizer() -> Any:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    words = [*special, "▁", *CHARACTERS, *string.ascii_uppercase]
    vocabulary = {word: index for index, word in enumerate(words)}
    return transformers.Siglip2Tokenizer(vocab=vocabulary, merges=[], model_max_length=40)


def _clip_image_processor() -> Any:
    size = {"height": SIZE, "width": SIZE}
    return CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=size)


def _siglip_image_processor() -> Any:
    return SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE})


def _vit_image_processor() -> Any:
    return ViTImageProcessorPil(size={"height": SIZE, "width": SIZE})


def _siglip2_image_processor() -> Any:
    return Siglip2ImageProcessorPil(patch_size=8, max_num_patches=(SIZE // 8) ** 2)


def _align_image_processor() -> Any:
    size = {"height": SIZE, "width": SIZE}
    return EfficientNetImageProcessorPil(size=size, crop_size=size)


_TOKENIZERS = {
    "siglip": _siglip_tokenizer,
    "siglip2": _siglip_tokenizer,
    "metaclip_2": _roberta_tokenizer,
    "altclip": _roberta_tokenizer,
    "chinese_clip": _bert_tokenizer,
    "align": _bert_tokenizer,
    "blip": _bert_tokenizer,
    **dict.fromkeys(DUAL_ENCODER_TOWERS, _bert_tokenizer),
}
_IMAGE_PROCESSORS = {
    "siglip": _siglip_image_processor,
    "siglip2": _siglip2_image_processor,
    "clipseg": _vit_image_processor,
    "align": _align_image_processor,
    **dict.fromkeys(DUAL_ENCODER_TOWERS, _vit_image_processor),
}
