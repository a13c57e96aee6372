"""What the metadata says of every linear, against what its tensors are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fp8scope.checkpoint.declaration import LINEAR, Declaration
from fp8scope.checkpoint.doctor.contents import Contents
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.fused import split_groups
from fp8scope.checkpoint.doctor.list_entries import Entries
from fp8scope.checkpoint.doctor.phrases import are, many, verb
from fp8scope.checkpoint.doctor.stored import Stored
from fp8scope.checkpoint.linears import BLOCK, FUSED, Granularity

# what engines run in FP8 wherever it is not listed; others they often build as plain linears
_USUAL = {
    *FUSED, "qkv_proj", "gate_up_proj", "o_proj", "out_proj", "down_proj", "w1", "w2", "w3",
    "fc1", "fc2", "c_attn", "c_proj", "c_fc", "query_key_value", "dense", "dense_h_to_4h",
    "dense_4h_to_h", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj",
}  # fmt: skip
_KEPT = ("vision_tower", "vision_model", "vit_large_projector")  # vLLM under ModelOpt's metadata
_MTP = ("eh_proj", "shared_head.head")  # DeepSeek's layer of multi-token prediction


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
        lacking = [each.name for each in self.contents.stored if self._is_lacking(each)]
        entries = Entries(self.contents, self.said, lacking)
        moved = entries.moved
        yield from self._not_ignored(moved)
        yield from self._ignored()
        yield from self._schemes()
        yield from entries.faults()

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
            what = f"{are(names, 'linear')} stored {found}"
            what = f"{what}, and {self.said.file} says {asked}"
            remedy = "correct the metadata: engines refuse scales of another shape, or misread them"
            yield Fault("scheme-differs", "error", what, remedy, tuple(names))


def _per(granularity: Granularity, block: tuple[int, int]) -> str:
    return (
        f"per block of {block[0]} x {block[1]}" if granularity == "block" else f"per {granularity}"
    )


def _plain(names: Sequence[str]) -> str:
    return f"{are(names, 'linear')} in BF16"
