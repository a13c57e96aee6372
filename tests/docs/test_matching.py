"""What counts as the same output, and what a page's fences are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import pages
from tests.docs.matching import difference
from tests.docs.session import run
from tests.docs.shell import Shell

REAL = """Plan for demo
  12 groups at 0.0051 ± 3.6% nats (702,264×),
  layers.12.mlp in 80 sequences, 8.25 MB, took 3 s
Wrote plan.json
"""


@pytest.mark.parametrize(
    "shown",
    [
        "Plan for demo 12 groups at 0.0051 ± 3.6% nats (702,264×), layers.12.mlp in 80 sequences,\n"
        "8.25 MB, took 3 s\nWrote plan.json",
        "Plan for demo\n…",
        "…\nWrote plan.json",
        "…\n12 groups\n…\nlayers.12.mlp in\n…",
        "… at 0.0055 ± 3.4% nats (650,000×), …",
        "… 8.1 MB, took … s …",
        "…",
    ],
)
def test_the_same(shown: str) -> None:
    assert difference(shown.splitlines(), REAL) is None


@pytest.mark.parametrize(
    ("shown", "says"),
    [
        ("for demo\n…", "“for demo”"),
        ("Plan for demo", "the page says “”, the command “12 groups"),
        ("…\nWrote", "Wrote"),
        ("…\nWrote plan.npz", "after “Wrote” the page says “plan.npz”, the command “plan.json”"),
        ("… at 0.0060 …", "“0.0060”"),
        ("… layers.13.mlp …", "“layers.13.mlp”"),
        ("… 13 groups …", "“13 groups”"),
        ("… in 81 sequences, …", "“81 sequences,”"),
        ("… (502,264×), …", "(502,264×)"),
        ("…\nlayers.12.mlp in\n…\n12 groups\n…", "“12 groups”"),
        ("Plan for demo\n…\nPlan for demo\n…", "“Plan for demo”"),
    ],
)
def test_not_the_same(shown: str, says: str) -> None:
    found = difference(shown.splitlines(), REAL)
    assert found is not None
    assert says in found


PAGE = """<!-- given: prose.txt -->
Text, and `code`.

<!-- file own.json -->
```json
{"a": 1}
```

1. A list
   ```console
   $ A=1; mkdir deep; cd deep
   $ cat ../own.json \\
       | tr a b  # two lines
   {"b": 1}
   $ echo $A; pwd | xargs basename; head -c 3 ../prose.txt > /dev/null
   1
   deep
   ```

<!-- exit 3 -->
```console
$ echo out; echo err >&2; (exit 3)
out
err
```

```python
from pathlib import Path
print(Path("own.json").read_text())
```
<!-- prints -->
```text
{"a": 1}
```
"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_a_page_is_one_session(
    page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run(page, tmp_path, tmp_path_factory)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("exit 3 -->", "exit 2 -->", "exit 3, not 2"),
        ("<!-- exit 3 -->", "", "exit 3, not 0"),
        ('{"b": 1}', '{"c": 1}', "the page says"),
        ("err\n", "error\n", "the page says “error”"),
        ('```text\n{"a": 1}', '```text\n{"a": 2}', "the page says"),
        ("given: prose.txt", "given: elsewhere.txt", "nobody makes elsewhere.txt"),
        ("own.json -->", "../own.json -->", "outside of the folder"),
        ("$ echo out", "> echo out", "output before the first command"),
    ],
)
def test_what_is_not_so_is_found(
    old: str,
    new: str,
    says: str,
    page: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    assert PAGE.count(old) == 1
    page.write_text(PAGE.replace(old, new))
    with pytest.raises(AssertionError, match=says):
        run(page, tmp_path, tmp_path_factory)


def test_a_shell_that_ends_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with (
        pytest.raises(AssertionError, match="bash itself ended"),
        Shell(tmp_path / "in") as shell,
    ):
        shell.run("exit 0")


def test_browse_gets_a_terminal(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.docs import reader

    (tmp_path / "in").mkdir()
    reader.put(["profile.h5"], tmp_path / "in", tmp_path_factory)
    with Shell(tmp_path / "in") as shell:
        assert shell.run("fp8scope browse profile.h5").code == 0
        refused = shell.run("fp8scope browse none.h5")
    assert refused.code == 2
    assert "none.h5" in refused.output
