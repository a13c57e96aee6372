"""From the words of a command line to the model and the text that are scanned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fp8scope.cli.options import Arguments
from fp8scope.errors import BadText

if TYPE_CHECKING:
    from fp8scope.observe.scan import Subject
    from fp8scope.runtime.sources import Source

DEMO = "demo"


def check_texts(arguments: Arguments) -> list[Source]:
    """The sources of `--calib`; empty where the demo brings its own.

    Local texts are read here once for their faults alone, which is quick: torch and the model
    take seconds to minutes to load. Raises BadText and Missing as `read_sources`.
    """
    from fp8scope.runtime.sources import parse_source, read_sources

    sources = [parse_source(value) for value in arguments.calib]
    if not sources and arguments.model != DEMO:
        raise BadText("no text was given", "give text like your traffic with --calib FILE")
    early = [source for source in sources if not _read_once(source.location)]
    if early:
        read_sources(early)
    return sources


def _read_once(location: str) -> bool:
    """Whether it comes over the network, or is a pipe, which is empty the second time."""
    from fp8scope.runtime.locations import HUB

    path = Path(location)
    return location.startswith(HUB) or (path.exists() and not (path.is_file() or path.is_dir()))


def load_subject(arguments: Arguments, sources: list[Source]) -> Subject:
    """Load torch, the model and the text. Raises as `load` and `build_calibration`."""
    from fp8scope.runtime.quiet import quiet_transformers

    quiet_transformers()
    from fp8scope.observe.scan import Subject
    from fp8scope.runtime.loading import LoadOptions, context_length, load, vocabulary_size
    from fp8scope.runtime.structure import discover
    from fp8scope.runtime.text import build_calibration

    reference = arguments.model
    if reference == DEMO:
        from fp8scope.demo.files import DEMO_MODEL, demo_sources

        reference, sources = str(DEMO_MODEL), sources or demo_sources()
    options = LoadOptions(
        dtype=arguments.dtype,
        device=arguments.device,
        trust_remote_code=arguments.trust_remote_code,
        allow_pickle=arguments.allow_pickle,
    )
    loaded = load(reference, options)
    calibration = build_calibration(
        sources,
        loaded.tokenizer,
        samples=arguments.samples,
        seq_len=arguments.seq_len,
        seed=arguments.seed,
        context=context_length(loaded.model),
        vocab_size=vocabulary_size(loaded.model),
    )
    return Subject(
        loaded.model,
        loaded.tokenizer,
        loaded.config,
        {**loaded.identity, "name": arguments.model},
        discover(loaded.model, loaded.tensor_shapes),
        calibration,
    )
