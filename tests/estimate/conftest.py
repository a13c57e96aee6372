"""Models of real shapes, read once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fp8scope.estimate.api import read_served
from fp8scope.estimate.served import Served
from tests.estimate import models

Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def llama_70b(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("models") / "Llama-3-70B"
    return read_served(str(models.write(folder, models.LLAMA_70B)))


@pytest.fixture(scope="session")
def llama2_70b(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("models") / "Llama-2-70B"
    return read_served(str(models.write(folder, models.LLAMA2_70B)))


@pytest.fixture(scope="session")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("models") / "Llama-3.1-8B"
    return read_served(str(models.write(folder, models.LLAMA_8B)))


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """`serve(config, tensors)`: the model of this config, read from a folder."""

    def read(config: Mapping[str, Any], tensors: models.Shapes | None = None) -> Served:
        return read_served(str(models.write(tmp_path / "model", config, tensors)))

    return read
