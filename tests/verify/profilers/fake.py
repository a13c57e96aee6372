"""Executables that stand in for nsys and ncu: they print recorded text and run the command."""

import shlex
from pathlib import Path

from tests.verify.profilers import recorded

_NSYS = """#!/bin/sh
case "$*" in
  --version) cat {version};;
  "profile --help") cat {help};;
  profile\\ --gpu-metrics-device*=help) cat {gpus};;
  profile*)
    shift
    while [ "${{1#--}}" != "$1" ]; do
      case "$1" in --output=*) out="${{1#--output=}}";; esac
      shift
    done
    "$@"; code=$?
    cat {said}
    {leave}
    exit $code;;
  export*)
    for word; do case "$word" in --output=*) out="${{word#--output=}}";; esac; done
    {export};;
esac
"""
_NCU = """#!/bin/sh
case "$*" in
  --version) cat {version};;
  --help) cat {help};;
  --query-metrics) cat {metrics};;
  --import*) {export};;
  *)
    while [ "${{1#--}}" != "$1" ]; do
      case "$1" in
        --log-file) log="$2"; shift 2;;
        --export) out="$2"; shift 2;;
        --nvtx|--force-overwrite) shift;;
        *) shift 2;;
      esac
    done
    "$@"; code=$?
    cat {said} > "$log"
    {leave}
    exit $code;;
esac
"""


def put_nsys(
    folder: Path,
    *,
    version: str = recorded.NSYS_VERSION,
    help_text: str = recorded.NSYS_HELP,
    gpus: str = recorded.NSYS_GPUS,
    said: str = "",
    leaves: str = ".nsys-rep",
    export: str = 'echo sqlite > "$out"',
) -> Path:
    leave = f'echo report > "$out{leaves}"' if leaves else ":"
    texts = {"version": version, "help": help_text, "gpus": gpus, "said": said}
    return _put(folder, "nsys", _NSYS, texts, leave=leave, export=export)


def put_ncu(
    folder: Path,
    *,
    help_text: str = recorded.NCU_HELP,
    metrics: str = recorded.NCU_METRICS,
    said: str = "",
    leaves: bool = True,
    export: str = recorded.NCU_CSV,
) -> Path:
    leave = 'echo report > "$out.ncu-rep"' if leaves else ":"
    texts = {
        "version": recorded.NCU_VERSION,
        "help": help_text,
        "metrics": metrics,
        "said": said,
        "csv": export,
    }
    return _put(folder, "ncu", _NCU, texts, leave=leave, export="cat {csv}")


def _put(folder: Path, name: str, script: str, texts: dict[str, str], **parts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for each, text in texts.items():
        path = folder / f"{name}-{each}.txt"
        path.write_text(text)
        paths[each] = shlex.quote(str(path))
    parts = {each: part.replace("{csv}", paths.get("csv", "")) for each, part in parts.items()}
    tool = folder / name
    tool.write_text(script.format(**paths, **parts))
    tool.chmod(0o755)
    return tool
