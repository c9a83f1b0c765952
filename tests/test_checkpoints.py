"""A checkpoint that cannot be used is refused in one sentence, and nothing in it is run."""

from __future__ import annotations

import http.server
import json
import logging
import os
import pickle
import shutil
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import transformers
from checkpoints import tiny_checkpoint
from safetensors.torch import load_file, save_file

from localize.encoders import CheckpointError, load_encoder
from localize.encoders.checkpoint import load_checkpoint
from localize.encoders.hub import find_files


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("good"), "clip")


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be spoilt."""
    return Path(shutil.copytree(good, tmp_path / "spoilt"))


def refusal(name: str | Path, *, unpickle: bool = False) -> str:
    """The one sentence that loading a checkpoint fails with."""
    with pytest.raises(CheckpointError) as caught:
        load_encoder(name, device="cpu", unpickle=unpickle)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_a_good_checkpoint_loads_without_a_word(
    good: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    load_encoder(str(good), device="cpu")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_loading_leaves_the_users_own_logging_as_it_was(good: Path) -> None:
    transformers.logging.set_verbosity_info()
    load_encoder(good, device="cpu")
    assert transformers.logging.get_verbosity() == logging.INFO
    assert transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_warning()


def test_a_missing_folder_is_named() -> None:
    assert "there is no folder ../nowhere/clip" in refusal("../nowhere/clip")
    assert "'emoji'" in refusal(Path("nowhere"))


@pytest.mark.parametrize("name", ["~nobody/clip", "./" + "a" * 300, "./\0", "two words"])
def test_a_name_that_can_be_no_folder_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="there is no folder"):
        load_encoder(name)


def test_a_file_is_not_a_folder(good: Path) -> None:
    assert "is a file; give the folder" in refusal(good / "config.json")


def test_a_folder_without_config_is_no_checkpoint(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert f"{folder} holds no config.json" in refusal(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model_type": 7}', "\x00\xff"])
def test_a_config_that_says_nothing_is_named(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert f"{folder / 'config.json'}" in refusal(folder)


def test_a_config_with_nonsense_values_is_refused(folder: Path) -> None:
    edit_json(folder / "config.json", lambda c: c["vision_config"].update(hidden_size="wide"))
    assert "cannot be loaded" in refusal(folder)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_truncated_weights_are_named(folder: Path, kept: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert f"{weights} is cut off or damaged" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "vocab.json"])
def test_a_pipe_or_device_in_a_checkpoint_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert f"{folder / name} is no plain file" in refusal(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert f"{folder / name} is no plain file" in refusal(folder)


def test_an_adapter_that_would_bring_in_another_model_is_refused(folder: Path) -> None:
    settings = {"base_model_name_or_path": "somebody/else", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    assert f"{folder} holds an adapter" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "negatives.json"])
def test_json_nested_without_end_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("[" * 100_000)
    assert str(folder / name) in refusal(folder)


@pytest.mark.parametrize("name", [None, 3, b"emoji"])
def test_what_is_no_name_is_a_type_error(name: Any) -> None:
    with pytest.raises(TypeError, match="a model must be a folder"):
        load_encoder(name)


def test_a_missing_shard_is_refused(folder: Path) -> None:
    transformers.AutoModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="30KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    load_encoder(folder, device="cpu")
    shards[-1].unlink()
    assert str(folder) in refusal(folder)


class Payload:
    """What a pickle can carry: a call that is made when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickled_weights_are_not_opened_unasked(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "was run")))
    message = refusal(folder)
    assert "only pickled ones (pytorch_model.bin)" in message
    assert "--unpickle" in message
    assert not (tmp_path / "was run").exists()


def payload(tmp_path: Path) -> bytes:
    return pickle.dumps(Payload(tmp_path / "was run"), protocol=2)


def place_single(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)


def place_shards(folder: Path, content: bytes) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    torch.save(weights, folder / names[0])
    (folder / names[1]).write_bytes(content)
    where = dict.fromkeys(weights, names[0]) | {"visual_projection.weight": names[1]}
    index = {"metadata": {}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def place_zipped(folder: Path, content: bytes) -> None:
    """As torch.save writes it: a zip archive with the pickle as one of its files."""
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "little")


def place_for_open_clip(folder: Path, content: bytes) -> None:
    pytest.importorskip("open_clip", reason="needs the extra open-clip")
    from open_clip_checkpoints import tiny_open_clip

    shutil.rmtree(folder)
    tiny_open_clip(folder)
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_pytorch_model.bin").write_bytes(content)


def place_as_safetensors(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)


def place_beside(folder: Path, content: bytes) -> None:
    """Files that other programs open without being asked."""
    (folder / "model.safetensors").unlink()
    for name in ("model.pt", "training_args.bin", "optimizer.pt", "negatives.npy", "model.ckpt"):
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "place",
    [
        place_single,
        place_shards,
        place_zipped,
        place_for_open_clip,
        place_as_safetensors,
        place_beside,
    ],
)
def test_a_pickle_that_would_run_a_command_runs_nothing(
    folder: Path, tmp_path: Path, place: Callable[[Path, bytes], None]
) -> None:
    place(folder, payload(tmp_path))
    refusal(folder)
    refusal(folder, unpickle=True)
    assert not (tmp_path / "was run").exists()
    pickle.loads(payload(tmp_path))  # the very same bytes do run where nobody is careful
    assert (tmp_path / "was run").exists()


def test_a_checkpoint_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "needs weights in model.safetensors but has none" in refusal(folder)


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop("visual_projection.weight"))
    assert "1 weights are missing (visual_projection.weight is the first)" in refusal(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    edit_weights(folder, lambda w: w.update({"visual_projection.weight": torch.zeros(24, 16)}))
    message = refusal(folder)
    assert (
        "visual_projection.weight has shape (24, 16) but config.json asks for (24, 32)" in message
    )


def test_extra_weights_do_no_harm(folder: Path) -> None:
    edit_weights(folder, lambda w: w.update({"some.decoder": torch.zeros(2)}))
    load_encoder(folder, device="cpu")


def test_a_model_that_is_no_dual_encoder_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8)
    transformers.BertModel(config).save_pretrained(tmp_path)
    assert "is a 'bert' model, which is no dual encoder" in refusal(tmp_path)


def test_an_image_tower_alone_is_no_dual_encoder(good: Path, tmp_path: Path) -> None:
    transformers.CLIPVisionModel.from_pretrained(good).save_pretrained(tmp_path)
    assert "is a 'clip_vision_model' model, which is no dual encoder" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1]"])
def test_negatives_that_are_no_list_of_texts_are_named(folder: Path, content: str) -> None:
    (folder / "negatives.json").write_text(content)
    assert f"{folder / 'negatives.json'} is not a JSON list of texts" in refusal(folder)


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    assert f"{folder} has no usable tokenizer" in refusal(folder)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"size": "wide"}'])
def test_unusable_image_settings_are_named(folder: Path, content: str | None) -> None:
    settings = folder / "preprocessor_config.json"
    settings.unlink() if content is None else settings.write_text(content)
    message = refusal(folder)
    assert f"{folder} does not say how images are prepared" in message


def test_the_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    words = [f"<{number}>" for number in range(200)]
    special = {"unk_token": "<0>", "bos_token": "<198>", "eos_token": "<199>"}
    vocabulary = {word: number for number, word in enumerate(words)}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[], **special).save_pretrained(folder)
    encoder = load_encoder(folder, device="cpu")
    with pytest.raises(CheckpointError, match="is not of the same model as the weights"):
        encoder.encode_prompts(["a cat"])


def test_a_damaged_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert f"{folder} has no usable tokenizer" in refusal(folder)


def test_a_checkpoint_with_code_of_its_own_is_refused_and_not_run(
    folder: Path, tmp_path: Path
) -> None:
    code = f"open({str(tmp_path / 'was run')!r}, 'w')\n"
    (folder / "modeling.py").write_text(code)
    auto_map = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}
    edit_json(
        folder / "config.json", lambda c: c.update(auto_map=auto_map, model_type="my_own_model")
    )
    assert "needs code of its own, which is never run" in refusal(folder)
    assert not (tmp_path / "was run").exists()


def test_code_beside_a_known_model_is_left_alone(folder: Path, tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'was run')!r}, 'w')\n"
    (folder / "own.py").write_text(code)
    names = ("Config", "Model", "Tokenizer", "ImageProcessor", "Processor")
    auto_map: dict[str, Any] = {f"Auto{name}": f"own.{name}" for name in names}
    auto_map["AutoTokenizer"] = ["own.Tokenizer", None]
    for file in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        edit_json(folder / file, lambda content: content.update(auto_map=auto_map))
    kernel = {"attn_implementation": "somebody/kernel", "_attn_implementation": "somebody/kernel"}
    edit_json(folder / "config.json", lambda c: c["vision_config"].update(kernel))
    edit_json(folder / "config.json", lambda c: c.update(kernel))
    checkpoint = load_checkpoint(find_files(folder))
    assert checkpoint.model.config.vision_config._attn_implementation == "sdpa"
    assert not (tmp_path / "was run").exists()


def test_a_processor_saved_as_a_whole_is_read_too(folder: Path) -> None:
    expected = load_encoder(folder, device="cpu")
    checkpoint = load_checkpoint(find_files(folder))
    (folder / "preprocessor_config.json").unlink()
    processor = transformers.CLIPProcessor(checkpoint.image_processor, checkpoint.tokenizer)
    processor.save_pretrained(folder)
    assert not (folder / "preprocessor_config.json").exists()
    again = load_encoder(folder, device="cpu")
    assert (again.mean, again.image_size) == (expected.mean, expected.image_size)


class Hub(http.server.BaseHTTPRequestHandler):
    """The hub's answer to a name that it does not know."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("empty_hub_cache", "hub")
@pytest.mark.parametrize("name", ["openia/clip-vit-base-patch32", "clip", "bad--id"])
def test_a_hub_id_with_a_typo_is_named(name: str) -> None:
    assert f"no public hub model called '{name}'; check the spelling" in refusal(name)


@pytest.mark.usefixtures("empty_hub_cache")
def test_a_hub_that_refuses_connections_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        message = refusal("openai/clip-vit-base-patch32")
    assert "the Hugging Face hub cannot be reached" in message
    assert "a local folder (--model FOLDER), or try 'localize demo'" in message


@pytest.mark.usefixtures("empty_hub_cache")
def test_a_hub_that_never_answers_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localize.encoders.hub.HUB_TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        assert "the Hugging Face hub cannot be reached" in refusal("openai/clip-vit-base-patch32")


@pytest.mark.usefixtures("empty_hub_cache")
def test_offline_mode_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal("openai/clip-vit-base-patch32")


@pytest.mark.usefixtures("empty_hub_cache")
def test_a_hub_model_in_the_local_cache_needs_no_network(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    commit = "0123456789012345678901234567890123456789"
    repository = tmp_path / "hub" / "models--somebody--clip"
    shutil.copytree(good, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert load_encoder("somebody/clip", device="cpu").name == "somebody/clip"
