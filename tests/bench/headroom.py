"""Static scales on other text, and amax predicted from a small calibration, on real models.

    python tests/bench/headroom.py [--samples 256] [--seq-len 128] [--dtype bfloat16]

Scans the small trained models of ../shared/data over prose, technical text and code, as many
sequences of each, and prints

- headroom: what the scales of one tag alone clip of another;
- chance: `compare --fail-above` between random halves of one text, where nothing has drifted;
- convergence: a small calibration's prediction of the expected amax of 2, 4 and 8 times the text
  against what so many other sequences show, over all sites, tags and random choices.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fp8scope.analyze.convergence import CLIPS_NOTHING, HARMS, expected_amax, growth_curve
from fp8scope.analyze.headroom import cast_sites, headroom_matrix
from fp8scope.analyze.saturation import wilson
from fp8scope.cli.interrupts import Interrupts
from fp8scope.cli.scan import command as scan_command
from fp8scope.profile.reader import read_profile
from fp8scope.profile.record import Profile

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TEXT = {
    "prose": "prose_pride_and_prejudice.txt",
    "technical": "technical_rust_book.md",
    "code": "code_thealgorithms_python.txt",
}
SMALL = (16, 32)
TIMES = (2, 4, 8)
DRAWS = 20


def scan(model: Path, samples: int, seq_len: int, dtype: str) -> Profile:
    """A profile of so many sequences of every tag."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "profile.h5"
        words = ["--samples", str(samples * len(TEXT)), "--seq-len", str(seq_len)]
        words += ["--dtype", dtype, "--sensitivity", "none", "-o", str(output)]
        for tag, name in TEXT.items():
            words += ["--calib", f"{tag}={DATA / 'text' / name}"]
        CliRunner().invoke(
            scan_command, [str(model), *words], obj=Interrupts(), catch_exceptions=False
        )
        return read_profile(output)


def headroom_table(profile: Profile) -> Table:
    """By calibration and traffic: sites that clip anything, or far, and the worst of them."""
    table = Table("scales of", "traffic", "sites", "clip", "far", "worst site", title="headroom")
    for name in ("its sequences", "far", "its values (95%)", "largest"):
        table.add_column(name, justify="right")
    matrices = {site: headroom_matrix(profile, site) for site in cast_sites(profile)}
    for calibration in profile.tags:
        for traffic in profile.tags:
            found = {site: matrix[calibration].tags[traffic] for site, matrix in matrices.items()}
            site = min(found, key=lambda site: found[site].severity)
            worst, (low, high) = found[site], found[site].rate_interval
            table.add_row(
                *(calibration, traffic, str(len(found))),
                str(sum(of.saturated_sequences > 0 for of in found.values())),
                str(sum(of.far_sequences > 0 for of in found.values())),
                str(site).removeprefix("model."),
                *(f"{worst.share:.1%}", f"{worst.far_share:.1%}"),
                f"{worst.rate:.1e} ({low:.1e} to {high:.1e})",
                f"{worst.clip:.2f}×",
            )
    return table


def halves(profile: Profile, size: int, draws: int) -> Iterator[tuple[float, float]]:
    """Of random halves of one text as calibration and traffic: drift, and so for any clip."""
    rng, tags = np.random.default_rng(0), profile.samples["tag"]
    for _ in range(draws):
        a, b = [], []
        for tag in range(len(profile.tags)):
            mine = rng.permutation(np.flatnonzero(tags == tag))
            a.append(mine[:size])
            b.append(mine[size : 2 * size])
        traffics = [*b, np.concatenate(b)]
        far = some = 0.0
        for site in cast_sites(profile):
            amax = profile.sites[site].sequence_amax
            scale = amax[np.concatenate(a)].max()
            for traffic in traffics:
                far = max(far, certain(amax[traffic] > scale * HARMS))
                some = max(some, certain(amax[traffic] > scale * CLIPS_NOTHING))
        yield far, some


def certain(hit: NDArray[np.bool_]) -> float:
    return wilson(int(hit.sum()), len(hit))[0]


def chance_table(profile: Profile) -> Table:
    """What `--fail-above` must exceed to keep still where nothing but chance differs."""
    table = Table("sequences a tag, A and B", title="chance: drift between halves of one text")
    for name in ("median", "95%", "most", "most, counting any clip"):
        table.add_column(name, justify="right")
    least = int(np.bincount(profile.samples["tag"]).min())
    for size in (16, 32, 64, 96):
        if 2 * size > least:
            break
        far, some = zip(*halves(profile, size, 2 * DRAWS), strict=True)
        numbers = (np.median(far), np.quantile(far, 0.95), max(far), max(some))
        table.add_row(str(size), *(f"{number:.3f}" for number in numbers))
    return table


@dataclass(frozen=True)
class Prediction:
    """Of many small calibrations, [trials]: amax of the larger text over that of the calibration.

    `expected`: its mean over all larger texts that could have been drawn; `predicted` from the
    calibration alone; `shown` by one such text.
    """

    expected: NDArray[np.float64]
    predicted: NDArray[np.float64]
    shown: NDArray[np.float64]

    @property
    def error_octaves(self) -> float:
        """RMS of log2(predicted / expected)."""
        return float(np.sqrt(np.mean(np.log2(self.predicted / self.expected) ** 2)))


def predict(profile: Profile, size: int, times: int) -> Prediction:
    """Every site, tag and random choice of `size` sequences, against `times` as many."""
    rng, rows, further = np.random.default_rng(0), [], (times - 1) * size
    for site in cast_sites(profile):
        amax = profile.sites[site].sequence_amax
        for tag in range(len(profile.tags)):
            for _ in range(DRAWS):
                mine = rng.permutation(amax[profile.samples["tag"] == tag])
                curve, others = (
                    growth_curve(mine[:size]),
                    np.maximum(mine[size:], mine[:size].max()),
                )
                then = curve.predicted(times * size), float(others[:further].max())
                rows.append([x / curve.amax for x in (expected_amax(others, further), *then)])
    return Prediction(*np.array(rows).T)


def convergence_table(profile: Profile) -> Table:
    """Predicted against expected growth; exceeded: by more than E4M3 rounds away."""
    table = Table("calibration", "text", title="convergence: amax of the text / of the calibration")
    for name in ("expected", "predicted", "error, rms", "exceeded", "at most", "if widened so"):
        table.add_column(name, justify="right")
    least = int(np.bincount(profile.samples["tag"]).min())
    for size in SMALL:
        for times in TIMES:
            if (times + 1) * size > least:
                continue
            found = predict(profile, size, times)
            bound = (times - 1) / times
            table.add_row(
                *(str(size), f"{times}×"),
                *(f"{found.expected.mean():.3f}", f"{found.predicted.mean():.3f}"),
                f"{found.error_octaves:.3f} octaves",
                *(f"{np.mean(found.shown > CLIPS_NOTHING):.1%}", f"{bound:.1%}"),
                f"{np.mean(found.shown > CLIPS_NOTHING * found.predicted):.1%}",
            )
    return table


def curve_table(profile: Profile) -> Table:
    """The site that grows most in each tag: the curve of 16 sequences and that of all."""
    table = Table("site", "tag", title="curves: expected amax by sequences")
    rng, sizes = np.random.default_rng(0), (4, 16, 32, 64, 128)
    for size in sizes:
        table.add_column(str(size), justify="right")
    for number, tag in enumerate(profile.tags):
        mine = profile.samples["tag"] == number
        site = max(
            cast_sites(profile),
            key=lambda s: (
                growth_curve(profile.sites[s].sequence_amax[mine]).step
                / profile.sites[s].sequence_amax[mine].max()
            ),
        )
        amax = profile.sites[site].sequence_amax[mine]
        small = growth_curve(rng.permutation(amax)[:16])
        cells = {n: expected_amax(amax, n) for n in sizes if n <= len(amax)}
        name = str(site).removeprefix("model.")
        table.add_row(
            name, f"{tag}, all {len(amax)}", *(f"{value:.3g}" for value in cells.values())
        )
        known = dict(small.points)
        row = [known.get(n) or small.predicted(n) for n in cells]
        table.add_row("", "from 16 of them", *(f"{value:.3g}" for value in row))
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--model", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    if not DATA.is_dir():
        print(f"skipped: no {DATA}")
        return
    console = Console(width=150)
    for model in arguments.model or sorted((DATA / "models").iterdir()):
        profile = scan(model, arguments.samples, arguments.seq_len, arguments.dtype)
        console.rule(f"{model.name}, {arguments.dtype}")
        for table in (headroom_table, chance_table, convergence_table, curve_table):
            console.print(table(profile))


if __name__ == "__main__":
    main()
