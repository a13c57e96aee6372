"""Rows that the `datasets` package reads: parquet files, hub datasets, local dataset folders.

The package is the `[datasets]` extra and is imported on use.
"""

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from fp8scope.checkpoint.hub import hub_refusals
from fp8scope.errors import BadText, Missing, one_line
from fp8scope.runtime.locations import HUB_SYNTAX, HubName, exists

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


def hub_rows(name: HubName, location: str) -> Rows:
    """The rows of a hub data set or of a local folder of one, by their numbers in the split.

    They are streamed, so that no more is fetched than is asked for; but a slice in percent is
    fetched whole.
    """
    datasets = _datasets_package(location)
    if not exists(name.name):
        _ask_the_hub(name.name)
    rows = name.rows()
    split, start, stop = rows or (name.split, 0, None)

    def load() -> Any:
        folder = Path(name.name)
        if (folder / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(name.name)[split]
        elif (folder / "state.json").is_file():  # a single split, written by save_to_disk
            found = datasets.load_from_disk(name.name)
        else:
            streaming = rows is not None
            found = datasets.load_dataset(name.name, name.config, split=split, streaming=streaming)
        return islice(found, start, stop)

    return _load(location, load, start + 1)


def _ask_the_hub(name: str) -> None:
    """One request whether the data set can be had: `datasets` itself tries for half a minute."""
    from huggingface_hub import HfApi

    with hub_refusals(name, "data set", BadText, f"write {HUB_SYNTAX}"):
        HfApi().dataset_info(name, timeout=10)


def _datasets_package(location: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise Missing(
            f"{location} needs the package datasets, which is not installed",
            "pip install 'fp8scope[datasets]'",
        ) from error
    return datasets


def _load(location: str, load: Callable[[], Any], start: int = 1) -> Rows:
    """The rows of a data set, numbered from `start`; what `datasets` raises becomes one line."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # what they log, they raise as well
    try:
        yield from enumerate(load(), start=start)
    except ConnectionError as error:
        raise Missing(
            f"{location} cannot be fetched: {one_line(error, 200)}",
            "check the name and the network, or give a local file",
        ) from error
    except Exception as error:  # pyarrow, fsspec, huggingface_hub: each has its own tree
        raise BadText(
            f"{location} cannot be read: {one_line(error, 200)}",
            f"write {HUB_SYNTAX}, or write its texts to a .jsonl",
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
