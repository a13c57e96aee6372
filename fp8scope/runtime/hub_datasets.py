"""Rows that the `datasets` package reads: parquet files, hub datasets, local dataset folders.

The package is the `[datasets]` extra and is imported on use.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fp8scope.errors import BadText, Missing
from fp8scope.runtime.locations import split_hub_name

Rows = Iterator[tuple[int, Any]]


def parquet_rows(path: Path, location: str) -> Rows:
    """The rows of a parquet file, numbered from 1. Refusals name it by its `location`."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"PAR1":
        raise BadText(f"{path} is not a parquet file", "check how it was written")
    datasets = _datasets_package(location)
    # Streamed, so that no copy of the file is left in the cache of `datasets`.
    return _load(
        location,
        lambda: datasets.load_dataset(
            "parquet", data_files=str(path), split="train", streaming=True
        ),
    )


def hub_rows(location: str) -> Rows:
    """The rows of `hf:NAME[:SPLIT]`, numbered from 1; NAME may be a local dataset folder."""
    name, split = split_hub_name(location)
    datasets = _datasets_package(location)

    def load() -> Any:
        folder = Path(name)
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(name)[split]
        if (folder / "state.json").is_file():  # a single split, written by save_to_disk
            return datasets.load_from_disk(name)
        return datasets.load_dataset(name, split=split)

    return _load(location, load)


def _datasets_package(location: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise Missing(
            f"{location} needs the package datasets, which is not installed",
            "pip install 'fp8scope[datasets]'",
        ) from error
    return datasets


def _load(location: str, load: Callable[[], Any]) -> Rows:
    """The rows of a dataset, numbered from 1; whatever `datasets` raises becomes one line."""
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it logs, it raises as well
    try:
        yield from enumerate(load(), start=1)
    except ConnectionError as error:
        raise Missing(
            f"{location} cannot be fetched: {_one_line(error)}",
            "check the name and the network, or give a local file",
        ) from error
    except Exception as error:  # pyarrow, fsspec, huggingface_hub: each has its own tree
        raise BadText(
            f"{location} cannot be read: {_one_line(error)}",
            "check the name and the split, or write its texts to a .jsonl",
        ) from error
    finally:
        logger.setLevel(level)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
