"""Hub models are fetched through the hub's own protocol: only what is needed, and only once."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import transformers
from checkpoints import FAMILIES, tiny_checkpoint
from hub_server import Hub, Repository, files_of
from PIL import Image
from safetensors.torch import load_file, save
from test_checkpoints import Payload, refusal

from localize.cli import main
from localize.encoders import Encoder, load_encoder
from localize.encoders.hub import CONVERTER, PINNED, find_files
from localize.encoders.inspection import inspect_model, installed_models

B16 = "openai/clip-vit-base-patch16"
B32 = "openai/clip-vit-base-patch32"
CLIP = "somebody/clip"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("good"), "clip")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP as OpenAI's are: pickled weights beside settings written by transformers 4.16."""
    folder = tiny_checkpoint(tmp_path_factory.mktemp("old"), "clip")
    age(folder)
    return folder


def age(folder: Path) -> None:
    """Turn a CLIP's folder into the layout of OpenAI's repositories."""
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    for tower, positions in (("text", 40), ("vision", 17)):
        weights[f"{tower}_model.embeddings.position_ids"] = torch.arange(positions)[None]
        settings = config[f"{tower}_config"]
        settings |= {"bad_words_ids": None, "no_repeat_ngram_size": 0, "torchscript": False}
        config[f"{tower}_config_dict"] = None
    config["text_config"] |= {"bos_token_id": 0, "eos_token_id": 2}
    config |= {"architectures": ["CLIPModel"], "transformers_version": None}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    for key in ("image_processor_type", "do_convert_rgb", "do_rescale", "rescale_factor"):
        settings.pop(key, None)
    settings |= {"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "flax_model.msgpack").write_bytes(b"\0" * 1000)
    (folder / "tf_model.h5").write_bytes(b"\0" * 1000)
    (folder / "README.md").write_text("# Model Card: CLIP")


@pytest.fixture
def repository(hub: Hub, good: Path) -> Repository:
    """A plain CLIP on the hub."""
    hub.repositories[CLIP] = Repository()
    hub.repositories[CLIP].commit(files_of(good))
    return hub.repositories[CLIP]


def old_repository(hub: Hub, old: Path, name: str = B32) -> Repository:
    """A repository whose main branch has only pickled weights."""
    hub.repositories[name] = Repository()
    hub.repositories[name].commit(files_of(old))
    return hub.repositories[name]


def converted(good: Path) -> dict[str, bytes]:
    return {"model.safetensors": (good / "model.safetensors").read_bytes()}


def load(name: str, *, unpickle: bool = False) -> Encoder:
    return load_encoder(name, device="cpu", dtype="float32", unpickle=unpickle)


def cached(name: str) -> set[str]:
    """The names of all files in the hub's cache of a model."""
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    return {path.name for path in folder.glob("snapshots/*/*")}


def same(one: Encoder, other: Encoder) -> bool:
    crops = torch.rand(2, 3, one.image_size, one.image_size)
    pairs = (
        (one.encode_crops(crops)[0], other.encode_crops(crops)[0]),
        (one.encode_prompts(["a cat"]), other.encode_prompts(["a cat"])),
    )
    return all(torch.allclose(*pair, atol=1e-5) for pair in pairs)


@pytest.mark.usefixtures("repository")
def test_a_model_is_fetched_once_and_then_asked_for_no_more(hub: Hub, good: Path) -> None:
    assert same(load(CLIP), load(str(good)))
    hub.requests.clear()
    hub.down = True
    assert load(CLIP).name == CLIP
    assert hub.requests == []


def test_a_download_is_announced_once(
    hub: Hub, repository: Repository, good: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = load_file(good / "model.safetensors") | {"unused": torch.zeros(500_000)}
    large = save(weights, {"format": "pt"})
    repository.commit(files_of(good) | {"model.safetensors": large})
    caplog.set_level("INFO", "localize")
    load(CLIP)
    load(CLIP)
    assert [record.getMessage() for record in caplog.records if "fetching" in record.msg] == [
        f"fetching {CLIP} (2 MB) from the Hugging Face hub, once, into "
        f"{huggingface_hub.constants.HF_HUB_CACHE}/models--somebody--clip"
    ]


def test_installed_models_are_those_in_the_cache_that_would_load(
    hub: Hub, repository: Repository
) -> None:
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE)
    assert installed_models() == []
    load(CLIP)
    text_only = folder / "models--somebody--bert" / "snapshots" / ("0" * 40)
    text_only.mkdir(parents=True)
    (text_only / "config.json").write_text('{"model_type": "bert"}')
    (folder / "models--half").mkdir()
    asked = len(hub.requests)
    assert installed_models() == [CLIP]
    assert len(hub.requests) == asked


def test_only_what_is_needed_is_fetched(hub: Hub, repository: Repository, good: Path) -> None:
    files = files_of(good)
    weights = files["model.safetensors"]
    others = ["pytorch_model.bin", "model.fp16.safetensors", "open_clip_model.safetensors"]
    others += ["tf_model.h5", "flax_model.msgpack", "model.onnx", "README.md", "spiece.model"]
    repository.commit(files | dict.fromkeys(others, weights))
    load(CLIP)
    assert hub.fetched() == set(files)


def test_a_revision_can_be_named(hub: Hub, repository: Repository, tmp_path: Path) -> None:
    first = repository.refs["main"]
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    second = repository.commit(files_of(other))
    repository.refs["v2"] = second
    repository.refs["refs/pr/7"] = second
    assert same(load(f"{CLIP}@v2"), load(str(other)))
    assert same(load(f"{CLIP}@refs/pr/7"), load(str(other)))
    assert not same(load(f"{CLIP}@{first}"), load(str(other)))
    hub.down = True
    assert load(f"{CLIP}@v2").name == f"{CLIP}@v2"  # type: ignore[attr-defined]
    assert not same(load(f"{CLIP}@{first}"), load(str(other)))


@pytest.mark.usefixtures("repository")
def test_a_revision_that_is_not_there_is_named(hub: Hub) -> None:
    assert f"{CLIP!r} has no revision 'v9'" in refusal(f"{CLIP}@v9")


def test_a_partial_cache_of_another_program_is_completed(
    hub: Hub, repository: Repository, good: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download(CLIP, name)
    hub.requests.clear()
    assert same(load(CLIP), load(str(good)))
    assert "model.safetensors" not in hub.fetched()
    assert cached(CLIP) == set(files_of(good))


def test_a_whole_cache_of_another_program_is_not_asked_for_again(
    hub: Hub, repository: Repository, good: Path
) -> None:
    transformers.CLIPModel.from_pretrained(CLIP)
    transformers.CLIPProcessor.from_pretrained(CLIP, backend="pil")
    hub.requests.clear()
    assert same(load(CLIP), load(str(good)))
    assert hub.requests == []


def test_a_cache_that_cannot_be_completed_is_used_as_far_as_it_goes(
    hub: Hub, repository: Repository, good: Path
) -> None:
    for name in set(files_of(good)) - {"tokenizer_config.json"}:
        huggingface_hub.hf_hub_download(CLIP, name)
    hub.down = True
    assert load(CLIP).image_size == load(str(good)).image_size


def test_a_download_whose_connection_breaks_goes_on_where_it_broke(
    hub: Hub, repository: Repository, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut_after = 50_000
    assert same(load(CLIP), load(str(good)))
    assert hub.ranges == ["bytes=50000-"]


def test_what_an_interrupted_download_finished_is_not_fetched_again(
    hub: Hub, repository: Repository, good: Path
) -> None:
    hub.storage_down = True
    assert "the Hugging Face hub cannot be reached" in refusal(CLIP)
    assert "model.safetensors" not in cached(CLIP)
    hub.storage_down = False
    finished = cached(CLIP)
    assert finished
    hub.requests.clear()
    assert same(load(CLIP), load(str(good)))
    assert hub.fetched() == set(files_of(good)) - finished


def test_a_gated_model_is_said_to_be(hub: Hub, repository: Repository) -> None:
    repository.gated = True
    assert f"the hub model {CLIP!r} is gated" in refusal(CLIP)


def test_a_missing_model_is_named(hub: Hub) -> None:
    assert "no public hub model called 'nobody/nothing'" in refusal("nobody/nothing")


@pytest.mark.usefixtures("repository")
def test_a_renamed_model_is_found_under_its_old_name(hub: Hub, good: Path) -> None:
    hub.renamed["old/name"] = CLIP
    assert same(load("old/name"), load(str(good)))
    hub.down = True
    assert load("old/name").name == "old/name"


@pytest.mark.parametrize("where", ["pinned", "looked up"])
def test_pickled_weights_are_replaced_by_the_hubs_conversion(
    hub: Hub, old: Path, good: Path, where: str
) -> None:
    name = B32 if where == "pinned" else "somebody/old-clip"
    repository = old_repository(hub, old, name)
    repository.request(converted(good), CONVERTER, name=PINNED.get(name))
    assert load(name).encode_prompts(["a cat"]).shape == (1, 24)
    assert same(load(name), load(str(good)))
    assert hub.fetched().isdisjoint({"pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"})
    asked = any("/discussions" in request for request in hub.requests)
    assert asked == (where == "looked up")
    hub.requests.clear()
    hub.down = True
    load(name)
    assert hub.requests == []


def test_a_pinned_commit_that_is_not_there_only_leads_to_the_pull_request(
    hub: Hub, old: Path, good: Path
) -> None:
    old_repository(hub, old).request(converted(good), CONVERTER)
    assert same(load(B32), load(str(good)))


def test_a_strangers_pull_request_is_not_taken(hub: Hub, old: Path, good: Path) -> None:
    old_repository(hub, old, CLIP).request(converted(good), "stranger")
    assert "no conversion to safetensors" in refusal(CLIP)


@pytest.mark.parametrize("status", ["closed", "draft", "merged"])
def test_a_conversion_that_is_not_open_is_not_taken(
    hub: Hub, old: Path, good: Path, status: str
) -> None:
    old_repository(hub, old, CLIP).request(converted(good), CONVERTER, status=status)
    assert "no conversion to safetensors" in refusal(CLIP)


def test_a_conversion_of_an_older_commit_is_not_taken(hub: Hub, old: Path, good: Path) -> None:
    repository = old_repository(hub, old, CLIP)
    repository.request(converted(good), CONVERTER)
    repository.commit(files_of(old) | {"README.md": b"corrected weights"})
    assert "no conversion to safetensors" in refusal(CLIP)


def test_a_conversion_with_a_second_commit_on_top_is_not_taken(
    hub: Hub, old: Path, good: Path
) -> None:
    repository = old_repository(hub, old, CLIP)
    repository.request(converted(good), CONVERTER)
    repository.commit(files_of(old) | converted(good) | {"extra": b""}, "refs/pr/1")
    assert "no conversion to safetensors" in refusal(CLIP)


def test_a_discussion_is_no_pull_request(hub: Hub, old: Path) -> None:
    old_repository(hub, old, CLIP).discuss(CONVERTER)
    assert "no conversion to safetensors" in refusal(CLIP)


def test_a_repository_closed_to_pull_requests_has_no_conversion(hub: Hub, old: Path) -> None:
    old_repository(hub, old, CLIP).closed = True
    assert "no conversion to safetensors" in refusal(CLIP)


def test_pickles_are_opened_on_the_users_word(hub: Hub, old: Path, good: Path) -> None:
    old_repository(hub, old)
    message = refusal(B32)
    assert "only pickled weights (pytorch_model.bin)" in message
    assert "--unpickle" in message
    assert "pytorch_model.bin" not in hub.fetched()
    assert same(load(B32, unpickle=True), load(str(good)))
    hub.down = True
    load(B32, unpickle=True)
    assert "cannot be reached" in refusal(B32)


def test_with_the_users_word_a_conversion_is_still_better(hub: Hub, old: Path, good: Path) -> None:
    old_repository(hub, old).request(converted(good), CONVERTER)
    load(B32, unpickle=True)
    assert "pytorch_model.bin" not in hub.fetched()


def test_a_pickle_with_a_command_runs_nothing(hub: Hub, old: Path, tmp_path: Path) -> None:
    files = files_of(old) | {"pytorch_model.bin": pickle.dumps(Payload(tmp_path / "was run"))}
    hub.repositories[CLIP] = Repository()
    hub.repositories[CLIP].commit(files)
    refusal(CLIP)
    assert "pytorch_model.bin" not in hub.fetched()
    message = refusal(CLIP, unpickle=True)
    assert "pytorch_model.bin holds more than weights" in message
    assert not (tmp_path / "was run").exists()


def test_what_is_no_use_is_told_before_its_weights_are_fetched(
    hub: Hub, repository: Repository, good: Path
) -> None:
    own = {"model_type": "jina_clip", "auto_map": {"AutoModel": "modeling.Model"}}
    repository.commit(files_of(good) | {"config.json": json.dumps(own).encode()})
    assert f"{CLIP} is a 'jina_clip' model, which needs code of its own" in refusal(CLIP)
    repository.commit(files_of(good) | {"config.json": b'{"model_type": "bert"}'})
    assert f"{CLIP} is a 'bert' model, which is no dual encoder" in refusal(CLIP)
    assert "model.safetensors" not in hub.fetched()


def test_a_repository_without_a_configuration_is_no_checkpoint(hub: Hub) -> None:
    hub.repositories[CLIP] = Repository()
    hub.repositories[CLIP].commit({"PE-Core-B16-224.pt": b"", "README.md": b""})
    assert "neither config.json nor open_clip_config.json" in refusal(CLIP)
    assert hub.fetched() == set()


def test_an_open_clip_repository_is_recognised_and_fetched(hub: Hub, good: Path) -> None:
    weights = (good / "model.safetensors").read_bytes()
    config = json.dumps({"model_cfg": {"text_cfg": {}}, "preprocess_cfg": {}}).encode()
    pair = {"open_clip_config.json": config, "open_clip_model.safetensors": weights}
    hub.repositories["timm/clip"] = Repository()
    others = {"open_clip_pytorch_model.bin": b"", "README.md": b""}
    hub.repositories["timm/clip"].commit(pair | others)
    for _ in range(2):
        files = find_files("timm/clip")
        assert files.layout.library == "open_clip"
        assert files.layout.weights == ("open_clip_model.safetensors",)
        assert {path.name for path in files.folder.iterdir()} == set(pair)
        assert hub.fetched() == set(pair)
        hub.down = True


@pytest.mark.parametrize("config", [{"architecture": "vit"}, {"model_type": "x", "auto_map": {}}])
def test_open_clips_layout_is_taken_where_the_other_needs_code_or_is_none(
    hub: Hub, good: Path, config: dict[str, object]
) -> None:
    files = files_of(good)
    files |= {"config.json": json.dumps(config).encode(), "open_clip_config.json": b"{}"}
    files["open_clip_model.safetensors"] = files["model.safetensors"]
    hub.repositories["timm/clip"] = Repository()
    hub.repositories["timm/clip"].commit(files)
    assert find_files("timm/clip").layout.weights == ("open_clip_model.safetensors",)


def test_shards_are_fetched_with_their_index(hub: Hub, good: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(good, tmp_path / "sharded"))
    model = transformers.AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")
    hub.repositories[CLIP] = Repository()
    hub.repositories[CLIP].commit(files_of(folder))
    assert same(load(CLIP), load(str(good)))
    assert "model.safetensors.index.json" in hub.fetched()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (80, 60), "red").save(path)
    return path


def detect(picture: Path, *more: str) -> int:
    output = str(picture.parent / "out")
    return main(["detect", str(picture), "-p", "a cat", "-o", output, *more])


def test_detect_works_with_openais_b32_as_it_lies_on_the_hub(
    hub: Hub, old: Path, good: Path, picture: Path
) -> None:
    old_repository(hub, old).request(converted(good), CONVERTER)
    assert detect(picture, "--model", B32) == 0
    hub.down = True
    assert detect(picture, "--model", B32) == 0


def test_detect_asks_for_the_users_word_where_there_is_no_conversion(
    hub: Hub, old: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old_repository(hub, old)
    assert detect(picture, "--model", B32) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--unpickle" in said
    assert detect(picture, "--model", B32, "--unpickle") == 0


def test_detect_takes_openais_b16_where_no_model_is_named(
    hub: Hub, old: Path, good: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = load_file(good / "model.safetensors") | {"unused": torch.zeros(500_000)}
    repository = old_repository(hub, old, B16)
    weights = {"model.safetensors": save(large, {"format": "pt"})}
    repository.request(weights, CONVERTER, name=PINNED[B16])
    assert detect(picture) == 0
    said = capsys.readouterr().err
    assert f"localize: fetching {B16} (2 MB) from the Hugging Face hub, once, into" in said
    found = json.loads((picture.parent / "out/photo.png.json").read_text())
    assert found["model"] == B16
    hub.down = True
    assert detect(picture) == 0
    assert capsys.readouterr().err == ""


def test_nothing_but_errors_is_said_to_a_quiet_user(
    hub: Hub, old: Path, good: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = load_file(good / "model.safetensors") | {"unused": torch.zeros(500_000)}
    weights = {"model.safetensors": save(large, {"format": "pt"})}
    old_repository(hub, old, B16).request(weights, CONVERTER, name=PINNED[B16])
    assert detect(picture, "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_detect_without_a_hub_says_what_works_without_one(
    hub: Hub, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.down = True
    assert detect(picture) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the Hugging Face hub cannot be reached" in said
    assert "--model FOLDER" in said
    assert "localize demo" in said


def test_a_check_fetches_nothing_large(
    hub: Hub, old: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old_repository(hub, old).request(converted(good), CONVERTER)
    assert main(["models", "--check", B32]) == 0
    said = capsys.readouterr().out
    assert f"{B32} would load, with transformers" in said
    assert "0.2 MB, converted by the hub (commit" in said
    assert "model.safetensors" in said
    assert "32 x 32 pixels" in said
    assert "tokens   yes" in said
    assert hub.fetched().isdisjoint({"model.safetensors", "pytorch_model.bin"})
    load(B32)
    hub.down = True
    assert main(["models", "--check", B32]) == 0
    assert "on this machine already" in capsys.readouterr().out


def test_a_check_says_why_a_model_would_not_load(
    hub: Hub, old: Path, repository: Repository, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old_repository(hub, old)
    assert main(["models", "--check", B32]) == 2
    assert "only pickled weights (pytorch_model.bin)" in capsys.readouterr().err
    assert main(["models", "--check", B32, "--unpickle"]) == 0
    assert "opened by torch's weights-only unpickler" in capsys.readouterr().out
    files = files_of(good)
    files.pop("preprocessor_config.json")
    repository.commit(files)
    assert main(["models", "--check", CLIP]) == 2
    assert "does not say how images are prepared" in capsys.readouterr().err
    assert main(["models", "--check", "nobody/nothing"]) == 2
    assert "no public hub model" in capsys.readouterr().err
    assert hub.fetched().isdisjoint({"model.safetensors", "pytorch_model.bin"})


def test_a_check_tells_tokens_and_input_of_a_folder_as_loading_does(
    good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = load(str(good))
    assert main(["models", "--check", str(good)]) == 0
    side = f"{encoder.image_size} x {encoder.image_size} pixels"
    assert side in capsys.readouterr().out


@pytest.mark.parametrize("family", ["vit", "timm_map", "timm_convolutional"])
def test_a_check_of_an_open_clip_model_tells_what_loading_finds(
    hub: Hub, tmp_path: Path, family: str
) -> None:
    pytest.importorskip("open_clip", reason="needs the extra open-clip")
    from open_clip_checkpoints import tiny_open_clip

    hub.repositories["timm/clip"] = Repository()
    hub.repositories["timm/clip"].commit(files_of(tiny_open_clip(tmp_path / "tiny", family)))
    found = inspect_model("timm/clip")
    assert "open_clip_model.safetensors" not in hub.fetched()
    encoder = load("timm/clip")
    assert found.image_size == encoder.image_size
    tokens = encoder.encode_crops(torch.zeros(1, 3, encoder.image_size, encoder.image_size))[1]
    assert found.tokens == (tokens is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_check_of_a_transformers_model_tells_what_loading_finds(
    tmp_path: Path, family: str
) -> None:
    folder = str(tiny_checkpoint(tmp_path, family))
    found, encoder = inspect_model(folder), load(folder)
    assert found.image_size == encoder.image_size
    tokens = encoder.encode_crops(torch.zeros(1, 3, encoder.image_size, encoder.image_size))[1]
    assert found.tokens == (tokens is not None)


def test_the_list_of_models_names_the_default_and_each_purpose(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    for text in (B16, "many languages", "fast", "satellite", "medicine", "biology", "fashion"):
        assert text in said
    assert max(map(len, said.splitlines())) <= 140


def test_evaluate_takes_openais_b16_for_photos_and_emoji_for_scenes(
    hub: Hub, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = picture.parent / "coco"
    (folder / "images").mkdir(parents=True)
    picture.rename(folder / "images" / "photo.png")
    facts = {
        "images": [{"id": 1, "file_name": "photo.png", "width": 80, "height": 60}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}],
    }
    (folder / "instances.json").write_text(json.dumps(facts))
    hub.down = True
    assert main(["evaluate", "--data", str(folder)]) == 2
    assert B16 in capsys.readouterr().err
    hub.requests.clear()
    assert main(["evaluate", "--scenes", "1", "--quiet"]) == 0
    assert hub.requests == []
