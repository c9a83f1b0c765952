"""Models of open_clip are embedded as open_clip itself embeds them."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

open_clip = pytest.importorskip(
    "open_clip", reason="the extra 'open-clip' is not installed", exc_type=ImportError
)

from open_clip_checkpoints import VISION, tiny_open_clip  # noqa: E402

from localize.encoders import (  # noqa: E402
    CheckpointError,
    Encoder,
    OpenClipEncoder,
    check_crop_embeddings,
    load_encoder,
)
from localize.encoders.open_clip_checkpoint import TEXT_TOWERS, _build  # noqa: E402
from localize.encoders.open_clip_tokens import token_reader  # noqa: E402

TEXTS = ["a cat", "A photo: a Dog!", "", "a cat", "sky."]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALIZE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def get(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function: family -> the encoder under test, and the model as open_clip loads it."""
    root = tmp_path_factory.mktemp("checkpoints")
    loaded: dict[str, tuple[Any, Any]] = {}

    def load(family: str) -> tuple[Any, Any]:
        if family not in loaded:
            folder = tiny_open_clip(root / family, family)
            model = open_clip.create_model(f"local-dir:{folder}").eval()
            encoder = load_encoder(folder, device="cpu", dtype="float32")
            loaded[family] = encoder, model
        return loaded[family]

    return load


def crops(encoder: Any, count: int = 2) -> torch.Tensor:
    side = encoder.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", VISION)
@torch.no_grad()
def test_crops_and_prompts_are_embedded_as_the_library_does(get: Any, family: str) -> None:
    encoder, model = get(family)
    assert isinstance(encoder, OpenClipEncoder)
    assert isinstance(encoder, Encoder)
    pixels = crops(encoder)
    embeddings, tokens = encoder.encode_crops(pixels)
    expected = F.normalize(model.encode_image(pixels), dim=-1)
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)
    check_crop_embeddings(encoder, embeddings, tokens, 2)
    assert (tokens is None) == (family == "timm_other")

    ids = open_clip.get_tokenizer(f"local-dir:{encoder.name}")(TEXTS)
    expected = F.normalize(model.encode_text(ids), dim=-1)
    torch.testing.assert_close(encoder.encode_prompts(TEXTS), expected, atol=1e-5, rtol=0)
    assert encoder.logit_scale == pytest.approx(float(model.logit_scale.exp()))


def test_mean_std_size_and_interpolation_are_the_configurations(get: Any) -> None:
    plain, siglip = get("vit")[0], get("timm_map")[0]
    assert (plain.image_size, plain.interpolation) == (32, "bicubic")
    assert plain.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert plain.std == pytest.approx((0.26862954, 0.26130258, 0.27577711))
    assert (siglip.image_size, siglip.interpolation) == (160, "bilinear")
    assert siglip.mean == pytest.approx((0.5, 0.5, 0.5))
    assert siglip.std == pytest.approx((0.25, 0.25, 0.25))


def gather(keys: torch.Tensor, values: torch.Tensor, heads: int) -> torch.Tensor:
    """NACLIP's attention for one crop's keys and values (1 + N, width), before its output layer."""
    count, width = keys.shape
    side, size = math.isqrt(count - 1), width // heads
    gathered = torch.zeros(count - 1, width)
    places = torch.tensor([divmod(patch, side) for patch in range(count - 1)]).float()
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for patch in range(count - 1):
            logits = keys[:, part] @ keys[patch + 1, part] / math.sqrt(size)
            squared = ((places - places[patch]) ** 2).sum(1)
            logits[1:] += torch.exp(-squared / (2 * 5.0**2))  # the class token has no place
            gathered[patch, part] = torch.softmax(logits, 0) @ values[:, part]
    return gathered


def inputs_of(modules: list[Any], run: Any) -> list[torch.Tensor]:
    """What modules are given while `run` runs."""
    seen: list[torch.Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for module in modules
    ]
    run()
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("family", ["vit", "vit_deep", "vit_scaled"])
@torch.no_grad()
def test_tokens_of_its_own_transformers_are_the_rewired_last_block_of_naclip(
    get: Any, family: str
) -> None:
    encoder, model = get(family)
    pixels = crops(encoder)
    visual = model.visual
    blocks = list(visual.transformer.resblocks)
    late = blocks[-4:] if family == "vit_deep" else blocks[-1:]  # a quarter of 16 blocks
    last = blocks[-1]
    gathered = []
    for hidden in inputs_of(late, lambda: model.encode_image(pixels[:1])):
        stacked = F.linear(last.ln_1(hidden[0]), last.attn.in_proj_weight, last.attn.in_proj_bias)
        _, keys, values = stacked.chunk(3, dim=-1)
        gathered.append(gather(keys, values, 4))
    attended = last.attn.out_proj(torch.stack(gathered).mean(0))
    if family == "vit_scaled":
        attended = attended * last.ls_1.gamma
    expected = F.normalize(visual.ln_post(attended) @ visual.proj, dim=-1)
    tokens = encoder.encode_crops(pixels)[1]
    assert tokens.shape == (2, 4, 4, 24)
    torch.testing.assert_close(tokens[0].flatten(0, 1), expected)


@pytest.mark.parametrize("family", ["timm_token", "eva"])
@torch.no_grad()
def test_tokens_of_timms_transformers_are_the_rewired_last_block_of_naclip(
    get: Any, family: str
) -> None:
    encoder, model = get(family)
    pixels = crops(encoder)
    trunk = model.visual.trunk
    last = trunk.blocks[-1]
    (hidden,) = inputs_of([last], lambda: model.encode_image(pixels[:1]))
    x, attn = last.norm1(hidden[0]), last.attn
    if family == "eva":
        _, key_weight, value_weight = attn.qkv.weight.chunk(3)  # EVA's keys have no bias
        keys, values = x @ key_weight.T, x @ value_weight.T + attn.v_bias
    else:
        _, keys, values = attn.qkv(x).chunk(3, dim=-1)
    attended = attn.proj(attn.norm(gather(keys, values, attn.num_heads)))
    if family == "timm_token":
        attended = last.ls1(attended)
    expected = model.visual.head(trunk.head(trunk.fc_norm(trunk.norm(attended))))
    tokens = encoder.encode_crops(pixels)[1]
    torch.testing.assert_close(tokens[0].flatten(0, 1), F.normalize(expected, dim=-1))


@pytest.mark.parametrize(
    "settings",
    [
        {"use_post_norm": True},
        {"init_values": 0.5},
        {"qk_norm": True},
        {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
@torch.no_grad()
def test_whatever_a_block_of_eva_does_to_keys_and_results_is_done_to_tokens(
    settings: dict[str, Any],
) -> None:
    from timm.models.eva import Eva

    torch.manual_seed(0)
    size: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 4}
    trunk = Eva(**size, depth=2, num_classes=0, global_pool="token", **settings).eval()
    for parameter in trunk.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
    read = token_reader(SimpleNamespace(visual=SimpleNamespace(trunk=trunk, head=nn.Identity())))
    last, attn = trunk.blocks[-1], trunk.blocks[-1].attn
    pixels = torch.randn(1, 3, 32, 32)
    (hidden,) = inputs_of([last], lambda: trunk(pixels))
    x = hidden[0] if "use_post_norm" in settings else last.norm1(hidden[0])
    if "qkv_fused" in settings:
        keys, values = attn.k_proj(x), attn.v_proj(x)
    else:
        _, key_weight, value_weight = attn.qkv.weight.chunk(3)
        keys, values = x @ key_weight.T, x @ value_weight.T + attn.v_bias
    if "qk_norm" in settings:
        keys = torch.cat([attn.k_norm(part) for part in keys.chunk(4, dim=-1)], -1)
    attended = attn.proj(attn.norm(gather(keys, values, 4)))
    if "use_post_norm" in settings:
        attended = last.norm1(attended)
    if "init_values" in settings:
        attended = attended * last.gamma_1
    assert read is not None
    torch.testing.assert_close(read()[0].flatten(0, 1), trunk.norm(attended))


@pytest.mark.parametrize("family", ["timm_map", "perception", "coca"])
@torch.no_grad()
def test_tokens_of_attention_pooling_are_what_it_pools_from_one_token_alone(
    get: Any, family: str
) -> None:
    encoder, model = get(family)
    pixels = crops(encoder)
    visual = model.visual
    pool = visual.attn_pool if family == "coca" else visual.trunk.attn_pool
    (cells,) = inputs_of([pool], lambda: model.encode_image(pixels))
    tokens = encoder.encode_crops(pixels)[1].flatten(1, 2)
    assert cells.shape[1] == 1 + tokens.shape[1]  # a class token or a register, which is no cell
    for patch in {0, 1, 7, tokens.shape[1] - 1}:
        alone = pool(cells[:, 1 + patch :][:, :1])  # its weight is one
        if family == "coca":
            expected = visual.ln_post(alone)[:, 0] @ visual.proj
        else:
            expected = visual.head(visual.trunk.head(visual.trunk.fc_norm(alone)))
        torch.testing.assert_close(tokens[:, patch], F.normalize(expected, dim=-1))


@torch.no_grad()
def test_tokens_of_openais_resnets_are_the_values_of_their_attention(get: Any) -> None:
    encoder, model = get("resnet")
    pixels = crops(encoder)
    pool = model.visual.attnpool
    (cells,) = inputs_of([pool], lambda: model.encode_image(pixels))
    tokens = encoder.encode_crops(pixels)[1]
    assert tokens.shape == (2, 2, 2, 24)
    for row in range(2):
        for column in range(2):
            placed = cells[:, :, row, column] + pool.positional_embedding[1 + 2 * row + column]
            expected = F.normalize(pool.c_proj(pool.v_proj(placed)), dim=-1)
            torch.testing.assert_close(tokens[:, row, column], expected)


@pytest.mark.parametrize("family", ["timm_convolutional", "mobile"])
@torch.no_grad()
def test_convolutional_tokens_are_what_the_head_makes_of_one_cell_alone(
    get: Any, family: str
) -> None:
    encoder, model = get(family)
    pixels = crops(encoder)
    visual = model.visual
    features = visual.trunk.forward_features(pixels)
    tokens = encoder.encode_crops(pixels)[1]
    side = features.shape[-1]
    assert tokens.shape == (2, side, side, 24)
    for row, column in [(0, 0), (0, side - 1), (side // 2, 1)]:
        cell = features[:, :, row : row + 1, column : column + 1]
        expected = visual.head(visual.trunk.forward_head(cell))
        torch.testing.assert_close(tokens[:, row, column], F.normalize(expected, dim=-1))


@pytest.mark.parametrize("family", ["clipa", "timm_mean"])
@torch.no_grad()
def test_tokens_of_mean_pooling_go_through_what_the_mean_goes_through(
    get: Any, family: str
) -> None:
    encoder, model = get(family)
    pixels = crops(encoder)
    visual = model.visual
    if family == "clipa":
        seen = visual.transformer(visual._embeds(pixels))[:, 1:]
        expected = visual.ln_post(seen) @ visual.proj
        mean = visual.ln_post(seen.mean(1)) @ visual.proj
    else:
        trunk = visual.trunk
        seen = trunk.forward_features(pixels)[:, trunk.num_prefix_tokens :]
        expected = visual.head(trunk.fc_norm(seen))
        mean = visual.head(trunk.fc_norm(seen.mean(1)))
    embeddings, tokens = encoder.encode_crops(pixels)
    torch.testing.assert_close(embeddings, F.normalize(mean, dim=-1))
    torch.testing.assert_close(tokens.flatten(1, 2), F.normalize(expected, dim=-1))


@pytest.mark.parametrize("where", ["open_clip_config.json", "tokenizer_config.json", "config.json"])
def test_code_that_a_folder_brings_for_its_tokenizer_is_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    modules = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(modules, str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    folder = tiny_open_clip(tmp_path / "model", "timm_map")
    ran = tmp_path / "ran"
    (folder / "trap.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Trap: pass\n")
    trap = {"auto_map": {"AutoTokenizer": [None, "trap.Trap"]}, "tokenizer_class": "Trap"}
    if where == "config.json":
        (folder / where).write_text(json.dumps(trap | {"model_type": "trap"}))
    else:
        edit(folder / "tokenizer_config.json", lambda content: content.update(trap))
    if where == "open_clip_config.json":  # the folder asks for its own code to be trusted
        settings = {"trust_remote_code": True, "clean": "canonicalize"}
        edit(
            folder / where,
            lambda content: content["model_cfg"]["text_cfg"].update(tokenizer_kwargs=settings),
        )
        with contextlib.suppress(Exception):
            open_clip.get_tokenizer(f"local-dir:{folder}")
        assert ran.exists(), "the trap is no trap"
        ran.unlink()
    with contextlib.suppress(CheckpointError):
        load_encoder(folder, device="cpu", dtype="float32")
    assert not ran.exists()


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda config: config["vision_cfg"].update(timm_model_name="hf-hub:stranger/tower"),
            "takes its image tower 'hf-hub:stranger/tower' from another place",
        ),
        (
            lambda config: config["vision_cfg"].update(timm_model_name="local-dir:/tmp/tower"),
            "takes its image tower 'local-dir:/tmp/tower' from another place",
        ),
        (
            lambda config: config["vision_cfg"].update(timm_model_name="no_such_tower_99"),
            "does not know 'no_such_tower_99'",
        ),
        (
            lambda config: config["text_cfg"].update(hf_model_name="stranger/texts"),
            "takes its text tower 'stranger/texts' from another repository",
        ),
        (
            lambda config: config["text_cfg"].update(hf_model_name="/tmp/texts"),
            "takes its text tower '/tmp/texts' from another repository",
        ),
        (lambda config: config.pop("vision_cfg"), "describes no model_cfg with two towers"),
        (lambda config: config.update(vision_cfg=[1]), "describes no model_cfg with two towers"),
        (lambda config: config["vision_cfg"].update(nonsense=1), "cannot be loaded"),
        (lambda config: config["vision_cfg"].update(layers=3), "weights are missing"),
        (lambda config: config["vision_cfg"].update(layers=1), "have no place in the model"),
        (lambda config: config.update(embed_dim=25), "has shape .* asks for"),
        (
            lambda config: config["text_cfg"].update(hf_tokenizer_name="stranger/words"),
            "has no usable tokenizer",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_ends_in_one_sentence(
    tmp_path: Path, change: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", None)  # whoever asks the network fails at once
    folder = tiny_open_clip(tmp_path, "vit")
    edit(folder / "open_clip_config.json", lambda content: change(content["model_cfg"]))
    with pytest.raises(CheckpointError, match=message) as refused:
        load_encoder(folder, device="cpu", dtype="float32")
    assert "\n" not in str(refused.value)


def test_a_tower_of_wide_pictures_is_refused(tmp_path: Path) -> None:
    folder = tiny_open_clip(tmp_path, "vit")
    edit(
        folder / "open_clip_config.json",
        lambda content: content["model_cfg"]["vision_cfg"].update(image_size=[32, 64]),
    )
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match="takes pictures of 64 x 32 pixels; only square"):
        load_encoder(folder, device="cpu", dtype="float32")


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"model_cfg": 3}'])
def test_a_damaged_configuration_ends_in_one_sentence(tmp_path: Path, text: str) -> None:
    folder = tiny_open_clip(tmp_path, "vit")
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"open_clip_config\.json"):
        load_encoder(folder, device="cpu", dtype="float32")


def test_weights_that_are_cut_off_are_named(tmp_path: Path) -> None:
    folder = tiny_open_clip(tmp_path, "vit")
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"open_clip_model\.safetensors is cut off"):
        load_encoder(folder, device="cpu", dtype="float32")
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"needs weights in open_clip_model\.safetensors"):
        load_encoder(folder, device="cpu", dtype="float32")


def test_pickled_weights_are_opened_only_on_the_users_word_and_run_nothing(tmp_path: Path) -> None:
    folder = tiny_open_clip(tmp_path, "vit")
    expected = load_encoder(folder, device="cpu", dtype="float32").encode_prompts(TEXTS)
    safe = folder / "open_clip_model.safetensors"
    pickled = folder / "open_clip_pytorch_model.bin"
    torch.save({"state_dict": {f"module.{k}": v for k, v in load_file(safe).items()}}, pickled)
    safe.unlink()
    with pytest.raises(CheckpointError, match="--unpickle"):
        load_encoder(folder, device="cpu", dtype="float32")
    encoder = load_encoder(folder, device="cpu", dtype="float32", unpickle=True)
    torch.testing.assert_close(encoder.encode_prompts(TEXTS), expected)

    torch.save({"state_dict": Touch(tmp_path / "ran")}, pickled)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_encoder(folder, device="cpu", dtype="float32", unpickle=True)
    assert not (tmp_path / "ran").exists()


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_older_checkpoints_with_their_text_tower_beside_the_image_tower_are_read(
    tmp_path: Path,
) -> None:
    folder = tiny_open_clip(tmp_path, "vit")
    expected = load_encoder(folder, device="cpu", dtype="float32").encode_prompts(TEXTS)
    edit(folder / "open_clip_config.json", lambda c: c["model_cfg"].update(custom_text=True))
    encoder = load_encoder(folder, device="cpu", dtype="float32")
    torch.testing.assert_close(encoder.encode_prompts(TEXTS), expected)


@torch.no_grad()
def test_a_text_tower_of_transformers_is_built_from_what_is_known_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        TEXT_TOWERS,
        "roberta-base",
        TEXT_TOWERS["roberta-base"]
        | {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1}
        | {"num_attention_heads": 4, "intermediate_size": 48},
    )
    folder = tiny_open_clip(tmp_path, "timm_map")
    edit(
        folder / "open_clip_config.json",
        lambda content: content["model_cfg"]["text_cfg"].update(hf_model_name="roberta-base"),
    )
    with pytest.raises(CheckpointError, match="weights are missing"):
        load_encoder(folder, device="cpu", dtype="float32")
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    model = _build(open_clip, config | {"custom_text": True}, folder).eval()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    encoder = load_encoder(folder, device="cpu", dtype="float32")
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    hidden = model.text.transformer(ids, attention_mask=(ids != 1).long()).last_hidden_state
    mask = (ids != 1).float()[..., None]
    expected = F.normalize(model.text.proj((hidden * mask).sum(1) / mask.sum(1)), dim=-1)
    torch.testing.assert_close(encoder.encode_prompts(TEXTS), expected, atol=1e-5, rtol=0)


def test_prompts_that_are_too_long_are_cut_with_one_warning(get: Any) -> None:
    for family in ("vit", "timm_map"):
        encoder = get(family)[0]
        encoder._said_truncated = False
        long = f"a cat on a mat for {family} " * 30
        with pytest.warns(UserWarning, match="over 16 tokens are cut, the first is 'a cat on a"):
            encoder.encode_prompts([long])


@pytest.mark.parametrize("family", ["vit", "timm_map", "perception", "mobile"])
def test_bfloat16_keeps_the_embeddings(get: Any, family: str) -> None:
    exact = get(family)[0]
    encoder = load_encoder(exact.name, device="cpu", dtype="bfloat16")
    pixels = crops(exact)
    for short, long in zip(encoder.encode_crops(pixels), exact.encode_crops(pixels), strict=True):
        assert short.dtype == torch.float32
        assert float(torch.cosine_similarity(short, long, dim=-1).min()) > 0.99
    short, long = (each.encode_prompts(TEXTS) for each in (encoder, exact))
    assert float(torch.cosine_similarity(short, long, dim=-1).min()) > 0.99


def test_text_embeddings_are_kept_between_runs(tmp_path: Path, cache: Path) -> None:
    folder = tiny_open_clip(tmp_path / "model", "vit")
    texts = [f"word {number}" for number in range(40)]
    expected = load_encoder(folder, device="cpu", dtype="float32").encode_prompts(texts)
    assert len(list(cache.iterdir())) == 1
    again = load_encoder(folder, device="cpu", dtype="float32")
    again._model.token_embedding = None  # it must not be needed
    torch.testing.assert_close(again.encode_prompts(texts), expected)


@pytest.mark.parametrize("family", ["vit", "timm_map"])
def test_a_compiled_tower_embeds_as_the_tower_itself(
    get: Any, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    # Traced as ever, but run by torch: generating code for the trace is torch's own business.
    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr("localize.encoders.towers.COMPILED_BATCH", 4)
    plain = get(family)[0]
    compiled = load_encoder(plain.name, device="cpu", dtype="float32", compile=True)
    pixels = crops(plain, 5)
    for one, other in zip(compiled.encode_crops(pixels), plain.encode_crops(pixels), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_a_tag_of_open_clips_own_table_means_its_hub_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789" * 4
    cached = tmp_path / "models--laion--CLIP-ViT-B-16-laion2B-s34B-b88K"
    folder = tiny_open_clip(cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    encoder = load_encoder("open_clip:ViT-B-16/laion2b_s34b_b88k", device="cpu", dtype="float32")
    assert encoder.name == "open_clip:ViT-B-16/laion2b_s34b_b88k"
    expected = load_encoder(folder, device="cpu", dtype="float32").encode_prompts(TEXTS)
    torch.testing.assert_close(encoder.encode_prompts(TEXTS), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "open_clip:ViT-B-16/no_such_tag",
            "'no_such_tag' is no tag of open_clip's ViT-B-16, as in",
        ),
        ("open_clip:NoSuch/openai", "open_clip has no pretrained architecture 'NoSuch'"),
        (
            "open_clip:ViT-B-16",
            "name a tag of open_clip's ViT-B-16, as in open_clip:ViT-B-16/openai; it has",
        ),
        ("open_clip:", "open_clip has no pretrained architecture ''"),
    ],
)
def test_a_tag_that_open_clip_does_not_know_ends_in_one_sentence(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_encoder(name, device="cpu")


def test_without_the_extra_it_is_said_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_open_clip(tmp_path)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for name in (folder, "open_clip:ViT-B-32/openai"):
        with pytest.raises(CheckpointError, match=r"pip install 'clip-localize\[open-clip\]'"):
            load_encoder(name, device="cpu")


def test_the_speed_of_a_model_of_open_clip_is_not_compared_with_transformers(
    tmp_path: Path,
) -> None:
    from localize.bench import bench

    with pytest.raises(CheckpointError, match="is a model of open_clip; it can be used, but"):
        bench(str(tiny_open_clip(tmp_path)), quick=True)
