"""Record the profiles in this folder anew.

    python profiles/record.py demo
    python profiles/record.py stories260K --model FOLDER --text prose=FILE --text code=FILE …

Files are named without their folders, which are of no use on another machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fp8scope.profile.reader import read_profile
from fp8scope.profile.writer import write_profile

HERE = Path(__file__).parent


def record(name: str, model: str, texts: list[str], samples: int) -> Path:
    """Scan, and write the profile here under `name`."""
    words = [word for text in texts for word in ("--calib", text)]
    words += ["--samples", str(samples)]
    with TemporaryDirectory() as folder:
        scanned = Path(folder) / "profile.h5"
        command = [sys.executable, "-m", "fp8scope", "scan", model, *words, "-o", str(scanned)]
        subprocess.run(command, check=True)  # noqa: S603  (our own command)
        profile = read_profile(scanned)
    sources = [{**each, "location": Path(str(each["location"])).name} for each in profile.sources]
    output = HERE / f"{name}.h5"
    write_profile(
        replace(profile, sources=tuple(sources), model={**profile.model, "name": name}), output
    )
    return output


def main() -> None:
    """Record one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", action="append", default=[], metavar="TAG=FILE")
    parser.add_argument("--samples", type=int, default=512)
    given = parser.parse_args()
    print(record(given.name, given.model, given.text, given.samples))


if __name__ == "__main__":
    main()
