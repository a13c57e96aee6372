"""Who may import whom, and what a light command must not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fp8scope

ROOT = Path(__file__).parents[1]
PAPER = (
    "core", "artefacts", "profile", "checkpoint", "traces", "analyze", "plan", "export", "estimate",
    "judge", "report", "tui",
)  # fmt: skip
PAPER_MODULES = [
    "fp8scope",
    "fp8scope.errors",
    *(
        f"fp8scope.{wing}.{path.stem}"
        for wing in PAPER
        for path in sorted((ROOT / "fp8scope" / wing).glob("*.py"))
        if path.stem != "__init__"
    ),
]
HEAVY = ("torch", "transformers")


def loaded(code: str, *names: str) -> list[str]:
    """Which of these packages are loaded after running `code` in a fresh interpreter."""
    ask = f"import sys\n{code}\nprint('LOADED', *[n for n in {names!r} if n in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return shown.stdout.splitlines()[-1].split()[1:]


def test_importing_the_package_loads_nothing_heavy() -> None:
    names = (*HEAVY, "h5py", "numpy", "rich", "click")
    assert loaded("import fp8scope; dir(fp8scope)", *names) == []


def test_no_module_of_the_paper_wing_loads_torch() -> None:
    # all in one process: if any of them did, it would show, and the next test says which
    assert len(PAPER_MODULES) > 15
    code = "\n".join(f"import {module}" for module in PAPER_MODULES)
    found = loaded(code, *HEAVY, "fp8scope.runtime", "fp8scope.observe", "fp8scope.cli")
    if found:
        guilty = [m for m in PAPER_MODULES if loaded(f"import {m}", *found)]
        pytest.fail(f"{found} loaded by {guilty}")


def test_help_is_light() -> None:
    code = (
        "sys.argv = ['fp8scope', '--help']\n"
        "from fp8scope.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code"
    )
    assert loaded(code, *HEAVY, "h5py", "rich", "numpy", "modelopt", "datasets") == []


def test_the_browser_paints_its_frame_before_anything_heavy() -> None:
    heavy = (*HEAVY, "h5py", "numpy", "pydantic", "fp8scope.profile", "fp8scope.analyze")
    assert loaded("import fp8scope.cli.browse, fp8scope.tui.app", "textual", *heavy) == ["textual"]


def test_the_import_contracts_hold() -> None:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    shown = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "0 broken" in shown.stdout


def test_public_names_resolve() -> None:
    for name in fp8scope.__all__:
        first = getattr(fp8scope, name)
        assert first is not None
        assert getattr(fp8scope, name) is first, f"{name} is also a package, which hides it"
    assert dir(fp8scope) == sorted(fp8scope.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        fp8scope.nonsense  # noqa: B018


def test_init_files_of_subpackages_are_empty() -> None:
    for path in (ROOT / "fp8scope").rglob("__init__.py"):
        if path.parent.name != "fp8scope":
            assert path.read_text() == "", path
