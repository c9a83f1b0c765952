"""Checkpoints as they were saved years ago load too, or are refused in one right sentence."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from checkpoints import SIZE, WIDTH, tiny_checkpoint
from safetensors.torch import load_file, save_file
from test_checkpoints import edit_json, refusal

from localize.encoders import Encoder, load_encoder

TEXTS = ["a cat", "A red house, and a cat!", "two   dogs"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("good"), "clip")


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "old"))


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP 1 as on the hub: spiece.model, its own tokenizer class, no tokenizer.json."""
    folder = tiny_checkpoint(tmp_path_factory.mktemp("siglip"), "siglip")
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "spiece.model").write_bytes(sentencepiece_model())
    settings = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 40, "do_lower_case": True}
    settings |= {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def sentencepiece_model() -> bytes:
    """A vocabulary of some thirty pieces, as SigLIP's: padding, end and unknown come first."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    words = "a cat dog red house and two big small birds sit on the green tree".split()
    sentences = [" ".join(words[i:] + words[:i]) for i in range(len(words))] * 20
    model = io.BytesIO()
    special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    trainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=32,
        minloglevel=2,
        **special,
    )
    return model.getvalue()


def whole_tokenizer(folder: Path) -> None:
    """Write tokenizer.json of the same vocabulary, as the hub's SigLIPs have it beside."""
    processor = pytest.importorskip("sentencepiece").SentencePieceProcessor()
    processor.LoadFromSerializedProto((folder / "spiece.model").read_bytes())
    pieces = [(processor.IdToPiece(i), processor.GetScore(i)) for i in range(len(processor))]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    normalizers = tokenizers.normalizers
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(tokenizers.Regex(r"[!-/:-@\[-`{-~]"), ""),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def plain_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without sentencepiece and protobuf."""
    for package in ("sentencepiece", "google.protobuf"):
        monkeypatch.setitem(sys.modules, package, None)


def load(folder: Path, **settings: Any) -> Encoder:
    return load_encoder(folder, device="cpu", dtype="float32", **settings)


def prompts(folder: Path) -> torch.Tensor:
    return load(folder).encode_prompts(TEXTS)


def test_a_siglip_1_loads_without_sentencepiece_and_reads_the_same_texts(
    siglip: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    expected = prompts(siglip)
    folder = Path(shutil.copytree(siglip, tmp_path / "siglip"))
    whole_tokenizer(folder)
    torch.testing.assert_close(prompts(folder), expected)
    (folder / "spiece.model").unlink()
    request.getfixturevalue("plain_install")
    torch.testing.assert_close(prompts(folder), expected)


@pytest.mark.usefixtures("plain_install")
def test_a_vocabulary_of_sentencepiece_alone_says_what_to_install(siglip: Path) -> None:
    message = refusal(siglip)
    assert "its vocabulary in spiece.model alone" in message
    assert "pip install 'clip-localize[sentencepiece]'" in message


def test_an_xlm_roberta_vocabulary_alone_is_read(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "altclip")
    expected = prompts(folder)
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "sentencepiece.bpe.model").write_bytes(sentencepiece_model())
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 38}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert prompts(folder).shape == expected.shape
    (folder / "tokenizer_config.json").unlink()
    assert "sentencepiece.bpe.model cannot be read" in refusal(folder)


def test_a_feature_extractor_of_old_is_an_image_processor(folder: Path, good: Path) -> None:
    expected = load(good)
    path = folder / "preprocessor_config.json"
    edit_json(path, lambda settings: settings.update(image_processor_type="CLIPFeatureExtractor"))
    assert load(folder).mean == expected.mean
    edit_json(path, lambda settings: settings.pop("image_processor_type"))
    edit_json(path, lambda settings: settings.update(feature_extractor_type="CLIPFeatureExtractor"))
    assert load(folder).mean == expected.mean
    edit_json(path, lambda settings: settings.update(size=SIZE, crop_size=SIZE))
    assert load(folder).image_size == SIZE


def test_weights_in_half_precision_alone_are_taken(folder: Path, good: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    half = {name: weight.half() for name, weight in weights.items()}
    save_file(half, folder / "model.fp16.safetensors", {"format": "pt"})
    save_file({"spoilt": torch.zeros(1)}, folder / "model.fp32.safetensors")
    (folder / "model.safetensors").unlink()
    torch.testing.assert_close(prompts(folder), prompts(good), atol=1e-2, rtol=0)


def test_shards_in_half_precision_alone_are_taken(folder: Path, good: Path) -> None:
    model = transformers.CLIPModel.from_pretrained(folder).half()
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB", variant="fp16")
    assert len(list(folder.glob("model*fp16*safetensors"))) > 1
    torch.testing.assert_close(prompts(folder), prompts(good), atol=1e-2, rtol=0)


@pytest.mark.parametrize("sharded", [False, True])
def test_pickles_of_old_are_opened_on_the_users_word(
    folder: Path, good: Path, sharded: bool
) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = [names[::2], names[1::2]] if sharded else [names]
    where: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        ending = f"-{number:05}-of-{len(parts):05}" if sharded else ""
        file = f"pytorch_model{ending}.bin"
        torch.save({name: weights[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    if sharded:
        index = {"metadata": {}, "weight_map": where}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert "--unpickle" in refusal(folder)
    crops = torch.rand(2, 3, SIZE, SIZE)
    found, expected = load(folder, unpickle=True), load(good)
    torch.testing.assert_close(found.encode_crops(crops), expected.encode_crops(crops))


def test_pickles_wait_for_a_torch_whose_unpickler_is_safe(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    assert "opened only with torch 2.10 or newer (here is 2.9.1)" in refusal(folder, unpickle=True)
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    load(folder, unpickle=True)


def test_an_index_that_leads_to_a_pickle_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "elsewhere.bin")
    save_file({"some": torch.zeros(1)}, folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "elsewhere.bin")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "asks for 'elsewhere.bin'" in refusal(folder)


def test_a_flava_is_no_dual_encoder(tmp_path: Path) -> None:
    tower = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 1}
    transformers.FlavaConfig(
        text_config=tower, image_config=tower, multimodal_config=tower
    ).save_pretrained(tmp_path)
    assert "is a 'flava' model, which is no dual encoder" in refusal(tmp_path)
