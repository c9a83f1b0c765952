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
from localize.encoders.tokens import mended

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


def rewired(
    hidden: torch.Tensor, norm: Any, attention: Any, heads: int, prefix: int = 1
) -> torch.Tensor:
    """NACLIP's attention for one crop's hidden states (prefix + N, width), without output layer."""
    x = norm(hidden)
    return gather(attention.k_proj(x), attention.v_proj(x), heads, prefix)


def gather(keys: torch.Tensor, values: torch.Tensor, heads: int, prefix: int = 1) -> torch.Tensor:
    count, width = keys.shape
    side, size = math.isqrt(count - prefix), width // heads
    gathered = torch.zeros(count - prefix, width)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for patch in range(count - prefix):
            row, column = divmod(patch, side)
            logits = torch.zeros(count)
            for other in range(count):
                logits[other] = keys[patch + prefix, part] @ keys[other, part] / math.sqrt(size)
                if other >= prefix:  # the class token and registers have no place
                    other_row, other_column = divmod(other - prefix, side)
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


@pytest.mark.parametrize(
    ("family", "registers"), [("dinov2", 0), ("dinov2_registers", 4), ("dinov3", 4)]
)
@torch.no_grad()
def test_dino_tokens_are_scaled_as_the_block_scales_them_and_no_register_is_a_patch(
    load: Any, crops: torch.Tensor, family: str, registers: int
) -> None:
    encoder, model = load(family)
    tower = model.vision_model
    blocks = tower.model.layer if family == "dinov3" else tower.encoder.layer
    final_norm = tower.norm if family == "dinov3" else tower.layernorm
    last = blocks[-1]
    hidden = first_input(last, lambda: model.get_image_features(pixel_values=crops[:1]))[0]
    assert len(hidden) == 1 + registers + 16
    gathered = rewired(hidden, last.norm1, last.attention, 4, prefix=1 + registers)
    attended = last.attention.o_proj(gathered) * last.layer_scale1.lambda1
    expected = model.visual_projection(final_norm(attended))

    tokens = encoder.encode_crops(crops)[1]

    assert tokens is not None
    torch.testing.assert_close(tokens[0].flatten(0, 1), F.normalize(expected, dim=-1))


@torch.no_grad()
def test_blip_tokens_take_keys_and_values_from_its_one_matrix(
    load: Any, crops: torch.Tensor
) -> None:
    encoder, model = load("blip")
    tower = model.vision_model
    last = tower.encoder.layers[-1]
    hidden = first_input(last, lambda: model.get_image_features(pixel_values=crops[:1]))[0]
    _, keys, values = last.self_attn.qkv(last.layer_norm1(hidden)).chunk(3, dim=-1)
    out = last.self_attn.projection(gather(keys, values, 4))
    expected = model.visual_projection(tower.post_layernorm(tower.post_layernorm(out)))

    tokens = encoder.encode_crops(crops)[1]

    assert tokens is not None
    torch.testing.assert_close(tokens[0].flatten(0, 1), F.normalize(expected, dim=-1))


@torch.no_grad()
def test_aimv2_tokens_are_what_its_head_pools_from_one_token_alone(
    load: Any, crops: torch.Tensor
) -> None:
    encoder, model = load("aimv2")
    hidden = model.vision_model(pixel_values=crops).last_hidden_state
    tokens = encoder.encode_crops(crops)[1]
    assert tokens is not None
    for patch in range(16):
        pooled = model.vision_model.head(hidden[:, patch : patch + 1])
        expected = F.normalize(model.visual_projection(pooled), dim=-1).reshape(3, 24)
        torch.testing.assert_close(tokens[:, patch // 4, patch % 4], expected)


@torch.no_grad()
def test_tips_tokens_are_its_last_block_with_each_token_attending_to_itself_alone(
    load: Any, crops: torch.Tensor
) -> None:
    encoder, model = load("tipsv2")
    tower = model.vision_model
    last = tower.encoder.layer[-1]
    hidden = first_input(last, lambda: model.get_image_features(pixel_values=crops))
    tokens = encoder.encode_crops(crops)[1]
    assert tokens is not None
    assert tokens.shape == (3, 4, 4, 32)
    for patch in range(16):  # after one class token and one register
        alone = last(hidden[:, 2 + patch : 3 + patch])  # attention to itself has weight one
        expected = F.normalize(tower.layernorm(alone)[:, 0], dim=-1)
        torch.testing.assert_close(tokens[:, patch // 4, patch % 4], expected)


def first_input(module: Any, run: Any) -> torch.Tensor:
    """What a module is given while `run` runs."""
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run()
    handle.remove()
    return seen[0]


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


@pytest.mark.parametrize("family", ["convnext", "dinov3_convnext"])
@torch.no_grad()
def test_convolutional_tokens_are_cells_treated_as_the_pooled_vector_is(
    load: Any, crops: torch.Tensor, family: str
) -> None:
    encoder, model = load(family)
    tower = model.vision_model
    if family == "convnext":
        features, norm = tower(pixel_values=crops).last_hidden_state, tower.layernorm
    else:
        features, norm = tower.model(crops).last_hidden_state, tower.layer_norm
    tokens = encoder.encode_crops(crops)[1]
    assert tokens is not None
    assert tokens.shape == (3, 4, 4, 24)
    for row in range(4):
        for column in range(4):
            cell = norm(features[:, :, row, column])
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
    from localize.encoders.hugging_face_tokens import token_reader

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


def mended_by_hand(patches: torch.Tensor, side: int) -> torch.Tensor:
    """One crop's patches (side², width), outliers replaced one by one, with loops."""
    grid = patches.reshape(side, side, -1)
    norms = grid.norm(dim=-1)

    def near(row: int, column: int) -> list[tuple[int, int]]:
        places = [(y, x) for y in range(row - 1, row + 2) for x in range(column - 1, column + 2)]
        return [(y, x) for y, x in places if 0 <= y < side and 0 <= x < side]

    outliers = set()
    for row in range(side):
        for column in range(side):
            third_largest = sorted(float(norms[place]) for place in near(row, column))[-3]
            if norms[row, column] > 1.75 * third_largest:
                outliers.add((row, column))
    result = grid.clone()
    for place in outliers:
        sound = [other for other in near(*place) if other not in outliers]
        result[place] = torch.stack([grid[other] for other in sound]).mean(0)
    assert len(outliers) == 4
    return result.reshape(side * side, -1)


def test_high_norm_patches_become_the_mean_of_their_sound_neighbours() -> None:
    patches = torch.randn(2, 36, 32, generator=torch.Generator().manual_seed(3))
    patches /= patches.norm(dim=-1, keepdim=True)
    patches[:, [0, 14, 15, 34]] *= torch.tensor([5.0, 3.0, 9.0, 2.0])[:, None]  # two side by side
    expected = torch.stack([mended_by_hand(crop, 6) for crop in patches])
    torch.testing.assert_close(mended(patches), expected)


def test_patches_of_like_norms_stay_as_they_are_to_the_bit() -> None:
    patches = torch.randn(2, 36, 32, generator=torch.Generator().manual_seed(3))
    assert torch.equal(mended(patches), patches)


def test_a_thing_whose_patches_have_large_norms_is_no_outlier() -> None:
    patches = torch.ones(1, 6, 6, 8)
    patches[:, 2:5, 1:4] *= 4
    assert torch.equal(mended(patches.flatten(1, 2)), patches.flatten(1, 2))
