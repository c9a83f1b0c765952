"""What all tests share: caches go to a folder of their own, never to the user's."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from hub_server import Hub, serve

from localize.encoders.torchvision_build import allow_any_torchvision

os.environ["LOCALIZE_CACHE"] = tempfile.mkdtemp(prefix="localize-test-cache-")
allow_any_torchvision()  # before the tests themselves import transformers


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub on the loopback that huggingface_hub asks, with an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with serve(Hub()) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub
