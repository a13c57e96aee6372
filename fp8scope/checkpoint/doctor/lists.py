"""What the metadata says of every linear, against what its tensors are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property

from fp8scope.checkpoint.declaration import LINEAR, Declaration
from fp8scope.checkpoint.doctor.contents import Contents
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.fused import split_groups
from fp8scope.checkpoint.doctor.phrases import many, some, verb
from fp8scope.checkpoint.doctor.stored import Stored
from fp8scope.checkpoint.linears import BLOCK, FUSED, HEADS, Granularity

# what engines run in FP8 wherever it is not listed; others they often build as plain linears
_USUAL = {
    *FUSED, "qkv_proj", "gate_up_proj", "o_proj", "out_proj", "down_proj", "w1", "w2", "w3",
    "fc1", "fc2", "c_attn", "c_proj", "c_fc", "query_key_value", "dense", "dense_h_to_4h",
    "dense_4h_to_h", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj",
}  # fmt: skip
_KEPT = ("vision_tower", "vision_model", "vit_large_projector")  # vLLM under ModelOpt's metadata
_MTP = ("eh_proj", "shared_head.head")  # DeepSeek's layer of multi-token prediction
_DEEPEST = 3  # leading parts of a name that another prefix may differ in


def list_faults(contents: Contents) -> Iterator[Fault]:
    """Every fault of lists that do not describe the tensors."""
    if contents.declaration is not None and contents.fp8:
        yield from _Lists(contents, contents.declaration).found()


class _Lists:
    """The metadata of one file against the linears."""

    def __init__(self, contents: Contents, said: Declaration) -> None:
        self.contents, self.said = contents, said
        self.declared = {each.name: contents.declared(each) for each in contents.stored}
        split = {each.name for members in split_groups(contents) for each in members}
        self.unjudged = split | contents.unsound  # named for that already

    def found(self) -> Iterator[Fault]:
        moved = self._moved()
        yield from self._not_ignored(moved)
        yield from self._ignored()
        yield from self._schemes()
        yield from self._dead(moved)

    def _not_ignored(self, moved: dict[str, str]) -> Iterator[Fault]:
        usual: list[str] = []
        others: list[str] = []
        fp8_ends = {each.name.rpartition(".")[2] for each in self.contents.fp8}
        for each in self.contents.stored:
            if each.name in moved or not self._is_lacking(each):
                continue
            last = each.name.rpartition(".")[2]
            known = each.module.kind in {"expert", "lm_head"} or last in _USUAL | fp8_ends
            (usual if known else others).append(each.name)
        if usual:
            what = f"{_plain(usual)} and not in the ignore list"
            remedy = f"add the names to it: engines load {verb(usual, 'it', 'them')} as FP8"
            yield Fault("bf16-not-ignored", "error", what, remedy, tuple(usual))
        if others:
            what = f"{_plain(others)} and not in the ignore list"
            remedy = "add the names to it: engines that do not know them load them as FP8"
            yield Fault("bf16-unlisted", "warning", what, remedy, tuple(others))

    def _is_lacking(self, each: Stored) -> bool:
        """Whether it is BF16, and engines will take it for FP8."""
        if not each.is_plain or self.declared[each.name].granularity is None:
            return False
        return each.name not in self.unjudged and not self._is_forgiven(each)

    def _is_forgiven(self, each: Stored) -> bool:
        """What engines never quantize, listed or not."""
        if each.module.kind == "router" or each.name.endswith(_MTP):
            return True
        if each.module.kind == "lm_head":
            return self.said.form in {"fp8", "fbgemm_fp8"}
        return self.said.form == "modelopt" and any(part in each.name for part in _KEPT)

    def _ignored(self) -> Iterator[Fault]:
        ignored = [s for s in self.contents.fp8 if self.declared[s.name].weights == "bf16"]
        if ignored:
            names = [each.name for each in ignored]
            listed = any(self.said.listed.matching(s.names, LINEAR) for s in ignored)
            are = verb(names, "is", "are")
            how = f"{are} {'listed as not quantized' if listed else 'named by no target'}"
            what = f"{many(names, 'linear')} in FP8 {how} in {self.said.file}"
            remedy = "correct the metadata: engines load the codes as numbers"
            yield Fault("fp8-ignored", "error", what, remedy, tuple(names))

    def _schemes(self) -> Iterator[Fault]:
        other: dict[tuple[str, str], list[str]] = {}
        for each in self.contents.fp8:
            scheme, real = self.declared[each.name], self.contents.granularity(each)
            if each.name in self.unjudged or real is None:
                continue
            if scheme.weights == "other":
                other.setdefault(("no FP8 scheme", "FP8"), []).append(each.name)
            elif scheme.granularity is not None and each.said is None:
                said = _per(scheme.granularity, scheme.block)
                other.setdefault((said, _per(real, (BLOCK, BLOCK))), []).append(each.name)
        for (asked, found), names in other.items():
            what = f"{many(names, 'linear')} {verb(names, 'is', 'are')} stored {found}"
            what = f"{what}, and {self.said.file} says {asked}"
            remedy = "correct the metadata: engines refuse scales of another shape, or misread them"
            yield Fault("scheme-differs", "error", what, remedy, tuple(names))

    def _dead(self, moved: dict[str, str]) -> Iterator[Fault]:
        dead = self._unmatched
        if moved:
            entries = tuple(dict.fromkeys(moved.values()))
            names = tuple(moved)
            what = f"{some(entries)} {verb(entries, 'matches', 'match')} nothing, though with"
            remedy = f"write the names as the files have them: {some(names)}"
            yield Fault(
                "list-prefix",
                "error",
                f"{what} another prefix {verb(entries, 'it', 'they')} would: "
                f"{many(names, 'linear')} in BF16 will be loaded as FP8",
                remedy,
                (*entries, *names),
            )
        used = set(moved.values())
        harmless = [entry for entry in dead if entry not in used and not _is_tied_head(entry)]
        if harmless:
            what = f"{len(harmless)} {verb(harmless, 'entry', 'entries')} of the lists"
            tails = _by_tail(self._names())
            hints = [found[0] for entry in harmless if (found := _elsewhere(entry, tails))]
            near = f"; with another prefix it would be {hints[0]}" if hints else ""
            what = f"{what} {verb(harmless, 'matches', 'match')} nothing ({some(harmless)}){near}"
            remedy = "delete them, or write the names that were meant"
            yield Fault("list-entry-dead", "warning", what, remedy, tuple(harmless))

    @cached_property
    def _unmatched(self) -> list[str]:
        """Entries of lists that mean no module of the files, in their order."""
        entries = [*self.said.listed.entries, *(self.said.targets or self.said.listed).entries]
        hit = {e for e in entries if e[:1].isupper() and "." not in e}  # classes
        for each in self.contents.stored:
            hit |= self._hits(each.names)
        others = self._names() if set(entries) - hit else []
        for name in others:
            hit |= self._hits((name,))
        return [entry for entry in dict.fromkeys(entries) if entry not in hit]

    def _hits(self, names: Iterable[str]) -> set[str]:
        given = tuple(names)
        listed = set(self.said.listed.matching(given))
        return listed | set(self.said.targets.matching(given) if self.said.targets else ())

    def _names(self) -> list[str]:
        """Every tensor, the modules that hold it, and a tied head."""
        found: dict[str, None] = {"lm_head": None} | dict.fromkeys(self.contents.tensors)
        for name in self.contents.tensors:
            while "." in name:
                name = name.rpartition(".")[0]  # noqa: PLW2901
                if name in found:
                    break
                found[name] = None
        return list(found)

    def _moved(self) -> dict[str, str]:
        """BF16 linears that an entry would name, were its prefix another; with the entry."""
        lacking = [each.name for each in self.contents.stored if self._is_lacking(each)]
        if not lacking:
            return {}
        moved: dict[str, str] = {}
        tails = _by_tail(lacking)
        for entry in self._unmatched:
            for name in _elsewhere(entry, tails):
                moved.setdefault(name, entry)
        return moved


def _per(granularity: Granularity, block: tuple[int, int]) -> str:
    return (
        f"per block of {block[0]} x {block[1]}" if granularity == "block" else f"per {granularity}"
    )


def _is_tied_head(entry: str) -> bool:
    """An entry for an output layer does no harm where the embedding's weight serves as one."""
    return entry.rpartition(".")[2] in HEADS


def _plain(names: Sequence[str]) -> str:
    return f"{many(names, 'linear')} {verb(names, 'is', 'are')} in BF16"


def _elsewhere(entry: str, tails: Mapping[str, Sequence[str]]) -> list[str]:
    """The names that the entry would match with another prefix."""
    own = list(_tails(entry))
    found = {name: None for tail in own for name in tails.get(tail, ())}
    for glob in (tail for tail in own if not {"*", "?", "["}.isdisjoint(tail)):
        found |= {name: None for tail in tails if fnmatchcase(tail, glob) for name in tails[tail]}
    return list(found)


def _by_tail(names: Iterable[str]) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        for tail in _tails(name):
            found.setdefault(tail, []).append(name)
    return found


def _tails(name: str) -> Iterator[str]:
    """The name without its first parts, as long as it says which layer it is of."""
    parts = name.split(".")
    for start in range(min(_DEEPEST, len(parts) - 1) + 1):
        tail = ".".join(parts[start:])
        if not parts[start].isdigit() and (tail == "lm_head" or re.search(r"\d", tail)):
            yield tail
