import builtins
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError

from fp8scope.errors import BadText, Missing
from fp8scope.runtime import sources
from fp8scope.runtime.documents import Document
from fp8scope.runtime.locations import HubName, parse_hub_name
from fp8scope.runtime.sources import (
    Source,
    parse_source,
    read_documents,
    read_sources,
)

CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def lines(path: Path, *rows: object) -> str:
    return write(
        path,
        "\n".join(r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows),
    )


def refusal(location: str) -> BadText:
    with pytest.raises(BadText) as caught:
        read_documents(Source(None, location))
    assert "\n" not in str(caught.value)
    assert Path(location).name in caught.value.what
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("argument", "tag", "location"),
    [
        ("a.txt", None, "a.txt"),
        ("code=a.txt", "code", "a.txt"),
        ("v1.2_x-y=a=b.txt", "v1.2_x-y", "a=b.txt"),
        ("dir/a=b.txt", None, "dir/a=b.txt"),
        ("two words=b.txt", None, "two words=b.txt"),
        ("=b.txt", None, "=b.txt"),
        ("hf:org/name:train", None, "hf:org/name:train"),
        ("chat=hf:org/name", "chat", "hf:org/name"),
        ("x" * 5000 + "=a.txt", "x" * 5000, "a.txt"),
    ],
)
def test_an_argument_is_split_at_a_plain_tag(argument: str, tag: str | None, location: str) -> None:
    assert parse_source(argument) == Source(tag, location)


def test_an_existing_file_with_an_equals_sign_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "lr=0.1.txt", "text")
    assert parse_source("lr=0.1.txt") == Source(None, "lr=0.1.txt")
    assert parse_source("lr=0.2.txt") == Source("lr", "0.2.txt")


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("hf:org/name", HubName("org/name")),
        ("hf:org/name:test", HubName("org/name", None, "test")),
        ("hf:org/name:en:test", HubName("org/name", "en", "test")),
        ("hf:org/name:en:test[:500]", HubName("org/name", "en", "test[:500]")),
        ("hf:org/name:test[10%:20%]", HubName("org/name", None, "test[10%:20%]")),
        ("hf:org/name:a:b:c", None),
        ("hf:org/name:", None),
        ("hf::train", None),
    ],
)
def test_a_hub_name_has_an_optional_configuration(location: str, name: HubName | None) -> None:
    assert parse_hub_name(location) == name
    if name is None:
        assert "write hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT" in refusal(location).remedy


@pytest.mark.parametrize("argument", ["", "tag=", "tag=hf:"])
def test_an_argument_without_a_location_is_refused(argument: str) -> None:
    with pytest.raises(BadText, match=r"names no file → write --calib \[TAG=\]FILE"):
        parse_source(argument)


@pytest.mark.parametrize(
    ("source", "tag"),
    [
        (Source(None, "a/prose.v2.txt"), "prose.v2"),
        (Source("x", "a/prose.txt"), "x"),
        (Source(None, "hf:org/name:train[:5]"), "name"),
    ],
)
def test_the_name_is_the_tag_by_default(source: Source, tag: str) -> None:
    assert source.default_tag == tag


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.RST", "a.cpp", "a"])
def test_a_text_file_is_one_document(tmp_path: Path, name: str) -> None:
    content = "\ufefffirst\r\n\nsecond 日本\n"
    location = write(tmp_path / name, content)
    read = read_documents(Source("t", location))
    assert read.documents == (Document(content[1:], None, "t", location, 1),)
    assert read.sha256 == hashlib.sha256(content.encode()).hexdigest()


def test_jsonl_has_a_document_per_line_with_its_own_tag(tmp_path: Path) -> None:
    called = [{"role": "assistant", "content": None, "tool_calls": [{"id": 1}], "name": None}]
    location = lines(
        tmp_path / "log.jsonl",
        {"text": "one\u2028still one"},
        "  ",
        {"messages": CHAT, "tag": "chat"},
        {"text": "", "tag": "chat"},
        {"messages": called, "text": None, "other": 1},
    )
    one, two, three = read_documents(Source(None, location)).documents
    assert (one.text, one.messages, one.tag, one.number) == ("one\u2028still one", None, "log", 1)
    assert (two.text, two.messages, two.tag, two.number) == (None, tuple(CHAT), "chat", 3)
    assert three.messages == ({"role": "assistant", "content": None, "tool_calls": [{"id": 1}]},)
    assert read_documents(Source(None, location)).blank == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "is not JSON (Expecting property name"),
        ("[" * 100_000, "is not JSON that can be read"),
        ("1" * 5000, "is not JSON that can be read"),
        ([1], "is a list, not an object"),
        ({"prompt": "x", "n": 1}, "has neither \"text\" nor \"messages\" (only 'prompt', 'n')"),
        ({}, "(only nothing)"),
        ({"text": 3}, 'has a "text" that is a int'),
        ({"text": "x", "messages": CHAT}, 'has both "text" and "messages"'),
        ({"text": "x", "tag": 3}, 'has a "tag" that is not a printable string'),
        ({"text": "x", "tag": "a\x1b[0m"}, 'has a "tag" that is not a printable string'),
        ('{"text": "a\\ud800"}', "has half a surrogate pair at character 1"),
        ({"messages": []}, 'has "messages" that are not a list'),
        ({"messages": "hi"}, 'has "messages" that are not a list'),
        ({"messages": ["hi"]}, "has message 1 that is not an object"),
        ({"messages": [*CHAT, {"role": "user"}]}, "has message 3 without a string"),
        ({"messages": [{"content": "hi"}]}, "has message 1 without a string"),
    ],
)
def test_a_bad_line_is_named_with_its_fault(tmp_path: Path, line: object, why: str) -> None:
    location = lines(tmp_path / "log.jsonl", {"text": "good"}, "", line)
    error = refusal(location)
    assert error.what.startswith(f"1 bad line: {location}:3 {why}"[:60])
    assert why in error.what
    assert error.remedy.startswith('give each line a string "text", or "messages": [{"role"')


@pytest.mark.parametrize("name", ["a.csv", "a.docx", "a.jsonl.gz", "prose.v2"])
def test_a_kind_that_is_not_read_is_refused(tmp_path: Path, name: str) -> None:
    error = refusal(write(tmp_path / name, "text"))
    assert f"({Path(name).suffix})" in error.what
    assert ".jsonl, .json or .parquet" in error.remedy


def test_json_is_a_list_of_strings_or_objects(tmp_path: Path) -> None:
    content = json.dumps(["one", {"text": "two", "tag": "t"}, " ", {"messages": CHAT}], indent=1)
    read = read_documents(Source(None, write(tmp_path / "a.json", content)))
    found = [(d.text, d.tag, d.number) for d in read.documents]
    assert found == [("one", "a", 1), ("two", "t", 2), (None, "a", 4)]
    assert read.blank == 1


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"text": "x"}', "holds a JSON dict, not a list of texts"),
        ('["x",\n"y"', "is not JSON (Expecting ',' delimiter at line 2, column 4)"),
        ('["x", 3]', "a.json:2 is a int, not an object"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, content: str, why: str) -> None:
    assert why in refusal(write(tmp_path / "a.json", content)).what


def test_text_parts_of_a_message_become_one_string(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "see"}, {"type": "text", "text": "this"}]
    location = lines(tmp_path / "log.jsonl", {"messages": [{"role": "user", "content": parts}]})
    (read,) = read_documents(Source(None, location)).documents
    assert read.messages == ({"role": "user", "content": "see\nthis"},)
    picture = [{"role": "user", "content": [parts[0], {"type": "image_url", "image_url": {}}]}]
    error = refusal(lines(tmp_path / "log.jsonl", {"messages": picture}))
    assert "log.jsonl:1 has message 1 with a part of type image_url: only text is read" in (
        error.what
    )


def test_a_name_that_is_not_utf8_gives_a_writable_tag() -> None:
    assert Source(None, "caf\udce9.txt").default_tag == "caf\\udce9"


@pytest.mark.parametrize("argument", ["my tag=a.txt", "=a.txt", "x/y=a.txt"])
def test_a_bad_tag_is_told_the_rules(argument: str) -> None:
    with pytest.raises(BadText, match="a tag before = is of letters, digits"):
        read_documents(parse_source(argument))


def test_a_name_that_is_too_long_is_no_file() -> None:
    assert refusal("x" * 5000).what.startswith("no such file: x")


def test_bad_lines_are_counted_and_three_are_shown(tmp_path: Path) -> None:
    error = refusal(lines(tmp_path / "log.jsonl", {"text": "good"}, *[{"a": 1}] * 5))
    assert error.what.startswith("5 bad lines: ")
    assert [f"log.jsonl:{n}" in error.what for n in range(1, 7)] == [
        False,
        *[True] * 3,
        *[False] * 2,
    ]
    assert error.what.endswith("; and 2 more")


@pytest.mark.parametrize(
    ("name", "content", "what", "remedy"),
    [
        ("a.txt", "", "holds no text", "traffic"),
        ("a.txt", " \n\t ", "holds no text", "traffic"),
        ("a.jsonl", "\n\n", "holds no text", "give each line"),
        ("a.jsonl", '{"text": " "}', "holds no text", "give each line"),
        ("a.txt", b"ok\0", "is a binary file (a NUL at byte 2)", "UTF-8 text"),
        ("a.txt", b"caf\xe9 au lait", "is not UTF-8: invalid continuation byte at byte 3", "iconv"),
        ("a.jsonl", b'{"text": "\xff"}', "is not UTF-8: invalid start byte at byte 10", "iconv"),
        ("a.parquet", b"PAR2", "is not a parquet file", "check how it was written"),
    ],
)
def test_a_file_without_usable_text_is_refused(
    tmp_path: Path, name: str, content: str | bytes, what: str, remedy: str
) -> None:
    error = refusal(write(tmp_path / name, content))
    assert what in error.what
    assert remedy in error.remedy


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    gone = refusal(str(tmp_path / "gone.txt"))
    assert (gone.what[:13], "hf:NAME" in gone.remedy) == ("no such file:", True)
    folder = refusal(str(tmp_path))
    assert "is a folder" in folder.what
    assert f"hf:{tmp_path}" in folder.remedy


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    location = write(tmp_path / "a.txt", "x")
    monkeypatch.setattr(Path, "read_bytes", deny)
    assert refusal(location).what.endswith("a.txt: Permission denied")


def test_the_same_text_twice_is_refused(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.txt", "same"), write(tmp_path / "b.txt", "same")
    other = write(tmp_path / "c.txt", "other")
    assert len(read_sources([Source("t", a), Source("t", other)])) == 2
    with pytest.raises(BadText, match=r"a\.txt is given twice → give each text once"):
        read_sources([Source(None, other), Source(None, a), Source("x", a)])
    with pytest.raises(BadText, match=r"b\.txt holds the same text as .*a\.txt"):
        read_sources([Source(None, a), Source(None, b)])
    with pytest.raises(BadText, match="no calibration text"):
        read_sources([])


# --- the `datasets` package --------------------------------------------------------------------


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    package = pytest.importorskip("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    package.disable_progress_bars()
    yield package
    package.enable_progress_bars()


def test_parquet_rows_are_documents(tmp_path: Path, datasets: Any) -> None:
    path = tmp_path / "p.parquet"
    rows = {"text": ["one", None, ""], "messages": [None, CHAT, None], "tag": [None, "chat", None]}
    datasets.Dataset.from_dict(rows).to_parquet(path)
    read = read_documents(Source(None, str(path)))
    one, two = read.documents
    assert (one.text, one.tag, one.number, read.blank) == ("one", "p", 1, 1)
    assert (two.messages, two.tag, two.number) == (tuple(CHAT), "chat", 2)
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not list(tmp_path.rglob("*.arrow")), "a copy was left in the cache"


def test_a_damaged_parquet_and_foreign_columns_are_refused(
    tmp_path: Path, datasets: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    error = refusal(write(tmp_path / "cut.parquet", b"PAR1" + b"x" * 50))
    assert "cannot be read" in error.what
    assert capfd.readouterr() == ("", "")
    datasets.Dataset.from_dict({"article": ["x"]}).to_parquet(tmp_path / "q.parquet")
    error = refusal(str(tmp_path / "q.parquet"))
    assert error.what.startswith("1 bad row: ")
    assert "(only 'article')" in error.what
    assert "give each row" in error.remedy


def test_a_local_dataset_folder_is_read_by_split(tmp_path: Path, datasets: Any) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    datasets.Dataset.from_dict({"text": ["a", "b", "c"]}).to_parquet(folder / "train.parquet")
    datasets.Dataset.from_dict({"text": ["d"]}).to_parquet(folder / "test.parquet")
    read = {
        split: read_documents(Source(None, f"hf:{folder}{split}"))
        for split in ("", ":train", ":test", ":train[:2]")
    }
    texts = {split: "".join(d.text or "" for d in r.documents) for split, r in read.items()}
    assert texts == {"": "abc", ":train": "abc", ":test": "d", ":train[:2]": "ab"}
    assert read[""].sha256 == read[":train"].sha256
    assert len({r.sha256 for r in read.values()}) == 3
    assert {d.tag for r in read.values() for d in r.documents} == {"set"}
    assert "Bad split: dev. Available splits: ['train', 'test']" in refusal(f"hf:{folder}:dev").what
    later = read_documents(Source(None, f"hf:{folder}:train[1:]"))
    assert [(d.text, d.number) for d in later.documents] == [("b", 2), ("c", 3)]


def test_a_configuration_is_named_before_the_split(tmp_path: Path, datasets: Any) -> None:
    folder = tmp_path / "set"
    (folder / "de").mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: en\n  data_files: en.jsonl\n"
        "- config_name: de\n  data_files: de/*.jsonl\n---\n"
    )
    lines(folder / "en.jsonl", {"text": "the"})
    lines(folder / "de" / "a.jsonl", {"text": "der"}, {"text": "die"})
    read = read_documents(Source(None, f"hf:{folder}:de:train"))
    assert [d.text for d in read.documents] == ["der", "die"]
    assert "['en', 'de']" in refusal(f"hf:{folder}").what


def test_a_hub_data_set_is_streamed_as_far_as_needed(
    datasets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def stream(*_: object, **settings: object) -> Iterator[dict[str, str]]:
        assert settings == {"split": "train", "streaming": True}
        for number in range(1, 1000):
            asked.append(number)
            yield {"text": "x" * 10}

    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", stream)
    monkeypatch.setattr(sources, "HUB_CHARACTERS", 95)
    read = read_documents(Source(None, "hf:org/name"))
    assert asked == list(range(1, 11))
    assert read.notes == ("hf:org/name is read up to row 10: a slice, [10:], goes on there",)
    read = read_documents(Source(None, "hf:org/name:train[20:50]"))
    assert [d.number for d in read.documents] == list(range(21, 51))
    assert read.notes == ()


def test_saved_datasets_are_read(tmp_path: Path, datasets: Any) -> None:
    one = datasets.Dataset.from_dict({"text": ["a"]})
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"test": one}).save_to_disk(str(tmp_path / "many"))
    assert read_documents(Source(None, f"hf:{tmp_path}/one")).documents[0].text == "a"
    assert read_documents(Source(None, f"hf:{tmp_path}/many:test")).documents[0].text == "a"
    assert "train" in refusal(f"hf:{tmp_path}/many").what


@pytest.mark.parametrize(
    ("error", "refused", "words"),
    [
        (ConnectionError("Couldn't reach\nthe Hub"), Missing, "from the hub .Couldn't reach the H"),
        (HFValidationError("no name"), BadText, "the hub has no data set org/name → write hf:NAME"),
    ],
)
def test_the_hub_is_asked_once_before_anything_is_fetched(
    datasets: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    refused: type[BadText],
    words: str,
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked again"))
    with pytest.raises(refused, match=words):
        read_documents(Source(None, "hf:org/name"))


def test_without_the_extra_the_command_to_install_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> ModuleType:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for location in ("hf:org/name", write(tmp_path / "a.parquet", b"PAR1")):
        with pytest.raises(Missing, match=r"pip install 'fp8scope\[datasets\]'"):
            read_documents(Source(None, location))
