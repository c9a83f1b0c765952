"""Dense tokens equal what the papers' formulae say, written here with loops over the weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from checkpoints import SIZE, tiny_checkpoint

from localize.encoders import HuggingFaceEncoder
from localize.encoders.checkpoint import load_checkpoint
from localize.encoders.hub import find_files

CLASS_TOKEN_FAMILIES = ["clip", "clip_deep", "metaclip_2", "altclip", "chinese_clip", "clipseg"]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function: family -> the encoder under test, and the bare model loaded by transformers."""
    root = tmp_path_factory.mktemp("checkpoints")
    loaded: dict[str, tuple[HuggingFaceEncoder, Any]] = {}

    def get(family: str) -> tuple[HuggingFaceEncoder, Any]:
        if family not in loaded:
            folder: Path = tiny_checkpoint(root / family, family)
            encoder = HuggingFaceEncoder(
                load_checkpoint(find_files(folder)), device="cpu", dtype="float32"
            )
            model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
            loaded[family] = encoder, model
        return loaded[family]

    return get


@pytest.fixture
def crops() -> torch.Tensor:
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def rewired(hidden: torch.Tensor, norm: Any, attention: Any, heads: int) -> torch.Tensor:
    """NACLIP's attention for one crop's hidden states (1 + N, width), before its output layer."""
    x = norm(hidden)
    keys, values = attention.k_proj(x), attention.v_proj(x)
    count, width = x.shape
    side, size = math.isqrt(count - 1), width // heads
    gathered = torch.zeros(count - 1, width)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for patch in range(count - 1):
            row, column = divmod(patch, side)
            logits = torch.zeros(count)
            for other in range(count):
                logits[other] = keys[patch + 1, part] @ keys[other, part] / math.sqrt(size)
                if other > 0:  # the class token has no place
                    other_row, other_column = divmod(other - 1, side)
                    squared = (row - other_row) ** 2 + (column - other_column) ** 2
                    logits[other] += math.exp(-squared / (2 * 5.0**2))
            gathered[patch, part] = torch.softmax(logits, 0) @ values[:, part]
    return gathered


@pytest.mark.parametrize("family", CLASS_TOKEN_FAMILIES)
@torch.no_grad()
def test_clip_like_tokens_are_the_rewired_last_block_of_naclip(
    load: Any, crops: torch.Tensor, family: str
) -> None:
    encoder, model = load(family)
    tower = model.vision_model
    last = tower.encoder.layers[-1]
    states = tower(pixel_values=crops[:1], output_hidden_states=True).hidden_states
    inputs = states[-5:-1] if family == "clip_deep" else states[-2:-1]  # a quarter of 16 blocks
    gathered = [rewired(x[0], last.layer_norm1, last.self_attn, 4) for x in inputs]
    mean = torch.stack(gathered).mean(0)
    expected = model.visual_projection(tower.post_layernorm(last.self_attn.out_proj(mean)))

    tokens = encoder.encode_crops(crops)[1]

    assert tokens is not None
    assert tokens.shape == (3, 4, 4, 24)
    torch.testing.assert_close(tokens[0].flatten(0, 1), F.normalize(expected, dim=-1))


@torch.no_grad()
def test_vit_tokens_go_through_the_pooler_that_the_class_token_goes_through(
    load: Any, crops: torch.Tensor
) -> None:
    encoder, model = load("vit")
    tower = model.vision_model
    last = tower.layers[-1]
    hidden = tower(pixel_values=crops[:1], output_hidden_states=True).hidden_states[-2][0]
    gathered = rewired(hidden, last.layernorm_before, last.attention, 4)
    normed = tower.layernorm(last.attention.o_proj(gathered))
    expected = model.visual_projection(torch.tanh(tower.pooler.dense(normed)))

    tokens = encoder.encode_crops(crops)[1]

    assert tokens is not None
    torch.testing.assert_close(tokens[0].flatten(0, 1), F.normalize(expected, dim=-1))


@torch.no_grad()
def test_siglip_tokens_are_what_its_head_pools_from_one_token_alone(
    load: Any, crops: torch.Tensor
) -> None:
    encoder, model = load("siglip")
    tower = model.vision_model
    hidden = tower(pixel_values=crops).last_hidden_state
    tokens = encoder.encode_crops(crops)[1]
    assert tokens is not None
    assert tokens.shape == (3, 4, 4, 32)
    for crop in range(3):
        for patch in range(16):
            alone = hidden[crop : crop + 1, patch : patch + 1]  # pooled with weight one
            expected = F.normalize(tower.head(alone), dim=-1)[0]
            torch.testing.assert_close(tokens[crop].flatten(0, 1)[patch], expected)


@torch.no_grad()
def test_naflex_tokens_follow_the_patches_row_by_row(load: Any, crops: torch.Tensor) -> None:
    encoder, model = load("siglip2")
    patches = crops.unfold(2, 8, 8).unfold(3, 8, 8)  # (B, 3, row, column, y, x)
    patches = patches.permute(0, 2, 3, 4, 5, 1).reshape(3, 16, -1)
    hidden = model.vision_model(patches, None, torch.full((3, 2), 4)).last_hidden_state
    tokens = encoder.encode_crops(crops)[1]
    assert tokens is not None
    for row in range(4):
        for column in range(4):
            alone = model.vision_model.head(hidden[:, row * 4 + column][:, None])
            torch.testing.assert_close(tokens[:, row, column], F.normalize(alone, dim=-1))


@torch.no_grad()
def test_convolutional_tokens_are_cells_treated_as_the_pooled_vector_is(
    load: Any, crops: torch.Tensor
) -> None:
    encoder, model = load("convnext")
    features = model.vision_model(pixel_values=crops).last_hidden_state
    tokens = encoder.encode_crops(crops)[1]
    assert tokens is not None
    assert tokens.shape == (3, 4, 4, 24)
    for row in range(4):
        for column in range(4):
            cell = model.vision_model.layernorm(features[:, :, row, column])
            expected = F.normalize(model.visual_projection(cell), dim=-1)
            torch.testing.assert_close(tokens[:, row, column], expected)


@torch.no_grad()
def test_align_embeds_a_crop_as_the_mean_of_its_cells(load: Any, crops: torch.Tensor) -> None:
    encoder, model = load("align")
    features = model.vision_model(pixel_values=crops).last_hidden_state
    embeddings, tokens = encoder.encode_crops(crops)
    assert tokens is not None
    cells = features.permute(0, 2, 3, 1)
    torch.testing.assert_close(tokens, F.normalize(cells, dim=-1))
    torch.testing.assert_close(embeddings, F.normalize(cells.mean((1, 2)), dim=-1))


def test_a_tower_with_unknown_modules_has_no_tokens(load: Any, crops: torch.Tensor) -> None:
    from localize.encoders.tokens import token_reader

    _, model = load("clip")
    del model.vision_model.embeddings.class_embedding
    assert token_reader(model) is None


@pytest.mark.parametrize("family", ["clip", "siglip", "convnext"])
def test_tokens_cost_no_second_pass_through_the_tower(
    load: Any, crops: torch.Tensor, family: str
) -> None:
    encoder, _ = load(family)
    passes: list[int] = []
    tower = encoder._model.vision_model
    handle = tower.embeddings.register_forward_hook(lambda *_: passes.append(1))
    encoder.encode_crops(crops)
    handle.remove()
    assert len(passes) == 1


def test_two_threads_get_their_own_tokens(load: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    encoder, _ = load("clip")
    batches = list(torch.randn(24, 2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)))
    alone = [encoder.encode_crops(batch)[1] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: encoder.encode_crops(batch)[1], batches))
    for one, other in zip(alone, together, strict=True):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one, other)
