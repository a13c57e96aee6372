"""What people's checkpoints suffer from, to be planted in healthy ones of many producers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fp8scope.checkpoint.inventory import read_inventory
from fp8scope.checkpoint.linears import linears
from fp8scope.core.modules import Model, Module, Treatment
from tests.checkpoint.doctor.zoo.editing import (
    INDEX,
    SINGLE,
    Checkpoint,
    Tensor,
    plain,
    read,
    write,
)
from tests.export.plans import plan_of

Spoil = Callable[[Checkpoint], None]
ATTENTION, MLP = "model.layers.0.self_attn", "model.layers.0.mlp"


@dataclass(frozen=True)
class Planted:
    """One fault in one checkpoint. `code` is the one error (or warning) that names it, `where` a
    tensor, module or file it must name; `companions` are other errors that are just as true.
    """

    what: str
    fixture: str
    spoil: Spoil
    code: str
    where: str
    companions: tuple[str, ...] = ()
    severity: str = "error"


def scale(end: str, change: Callable[[Any], Any]) -> Spoil:
    """The values of every tensor that ends so."""

    return edited(lambda checkpoint: checkpoint.scale(change, end))


def edited(change: Callable[[Checkpoint], Any]) -> Spoil:
    """Whatever `change` does to it in memory."""

    def spoil(checkpoint: Checkpoint) -> None:
        change(checkpoint)
        checkpoint.save()

    return spoil


def said(**settings: Any) -> Spoil:
    """Entries of config.json's quantization_config; None takes one away."""

    def change(checkpoint: Checkpoint) -> None:
        for key, value in settings.items():
            if value is None:
                del checkpoint.said[key]
            else:
                checkpoint.said[key] = value

    return edited(change)


def on_disk(change: Callable[[Checkpoint], Any]) -> Spoil:
    """Whatever `change` does to the files, which hold the healthy checkpoint."""

    def spoil(checkpoint: Checkpoint) -> None:
        checkpoint.save()
        change(checkpoint)

    return spoil


def put(values: Any, at: int, value: float) -> Any:
    changed = np.array(values, "<f4")
    changed.reshape(-1)[at] = value
    return changed


def unlisted(*names: str) -> Spoil:
    """Names taken from whichever list there is."""

    def change(checkpoint: Checkpoint) -> None:
        for key in ("ignore", "ignored_layers", "modules_to_not_convert"):
            if key in checkpoint.said:
                listed = checkpoint.said[key]
                assert set(names) <= set(listed)
                checkpoint.said[key] = [name for name in listed if name not in names]

    return edited(change)


def also_listed(key: str, *names: str) -> Spoil:
    return edited(lambda checkpoint: checkpoint.said[key].extend(names))


def coded(module: str, change: Callable[[Any], Any]) -> Spoil:
    """The bytes of a weight."""

    def edit(checkpoint: Checkpoint) -> None:
        weight = checkpoint.tensors[f"{module}.weight"]
        array = np.frombuffer(weight.data, np.uint8).reshape(weight.shape).copy()
        changed = change(array)
        weight.data, weight.shape = changed.tobytes(), changed.shape

    return edited(edit)


def retyped(module: str, dtype: str) -> Spoil:
    def edit(checkpoint: Checkpoint) -> None:
        checkpoint.tensors[f"{module}.weight"].dtype = dtype

    return edited(edit)


def e5m2(checkpoint: Checkpoint) -> None:
    """E4M3's codes, those left out that would be infinite."""
    weight = checkpoint.tensors[f"{MLP}.down_proj.weight"]
    codes = np.frombuffer(weight.data, np.uint8)
    weight.data = np.where(codes & 0x7F < 0x7C, codes, 0x30).astype(np.uint8).tobytes()
    weight.dtype = "F8_E5M2"


def plain_but_scaled(module: str) -> Spoil:
    """A weight in BF16 whose scales stay."""

    def edit(checkpoint: Checkpoint) -> None:
        shape = checkpoint.tensors[f"{module}.weight"].shape
        checkpoint.tensors[f"{module}.weight"] = plain(np.full(shape, 0.05))

    return edited(edit)


def prefixed(key: str) -> Spoil:
    """The list written for a multimodal wrapper of the model."""

    def edit(checkpoint: Checkpoint) -> None:
        checkpoint.said[key] = [
            name.replace("model.", "model.language_model.", 1) for name in checkpoint.said[key]
        ]

    return edited(edit)


def q_alone_in_bf16(checkpoint: Checkpoint) -> None:
    """And on the list."""
    checkpoint.dequantize(f"{ATTENTION}.q_proj")
    checkpoint.said["ignored_layers"].append(f"{ATTENTION}.q_proj")


def all_plain(checkpoint: Checkpoint) -> None:
    """Saved after it was dequantized, metadata and all."""
    for name in checkpoint.ending(".weight"):
        if checkpoint.tensors[name].dtype == "F8_E4M3":
            checkpoint.dequantize(name.removesuffix(".weight"))


def retargeted(checkpoint: Checkpoint) -> None:
    for group in checkpoint.said["config_groups"].values():
        group["targets"] = [f"language_model.{name}" for name in group["targets"]]


def sharded(change: Callable[[Checkpoint], Any]) -> Spoil:
    def spoil(checkpoint: Checkpoint) -> None:
        checkpoint.shard()
        change(checkpoint)

    return spoil


def cut(checkpoint: Checkpoint) -> None:
    path = checkpoint.folder / SINGLE
    path.write_bytes(path.read_bytes()[:-1000])


def pointer(checkpoint: Checkpoint) -> None:
    """What `git clone` leaves without LFS."""
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 75584\n"
    (checkpoint.folder / SINGLE).write_text(text)


def swapped_index(checkpoint: Checkpoint) -> None:
    """One tensor said to lie in the other shard."""
    path = checkpoint.folder / INDEX
    index = json.loads(path.read_text())
    name = f"{MLP}.down_proj.weight"
    index["weight_map"][name] = "model-00002-of-00002.safetensors"
    path.write_text(json.dumps(index))


def twice(checkpoint: Checkpoint) -> None:
    name = "lm_head.weight"
    path = checkpoint.folder / "model-00002-of-00002.safetensors"
    _, held = read(path)
    write(path, held | {name: checkpoint.tensors[name]}, checkpoint.metadata)


def index_of_base(checkpoint: Checkpoint) -> None:
    """The index of the BF16 model, which knows of no scales."""
    path = checkpoint.folder / INDEX
    index = json.loads(path.read_text())
    kept = {name: file for name, file in index["weight_map"].items() if "scale" not in name}
    path.write_text(json.dumps(index | {"weight_map": kept}))


def shards_of_base(checkpoint: Checkpoint) -> None:
    """The BF16 model's shards and index, over which the FP8 file was uploaded."""
    base = replace(checkpoint, tensors=dict(checkpoint.tensors))
    all_plain(base)
    content = (checkpoint.folder / SINGLE).read_bytes()
    base.shard()
    (checkpoint.folder / SINGLE).write_bytes(content)


def fp8_head(checkpoint: Checkpoint) -> None:
    """The output layer quantized along with the rest, and off the list."""
    shape = checkpoint.tensors["lm_head.weight"].shape
    codes = np.random.default_rng(0).integers(0x20, 0x7F, shape, np.uint8)
    checkpoint.tensors["lm_head.weight"] = Tensor("F8_E4M3", shape, codes.tobytes())
    for word in ("weight_scale", "input_scale"):
        checkpoint.tensors[f"lm_head.{word}"] = Tensor("F32", (), np.float32(0.001).tobytes())
    checkpoint.said["ignored_layers"] = []


def wanted(module: Module) -> Treatment | None:
    """What it is stored in; a matrix of a single block looks as if it had one scale."""
    return "fp8_block" if module.wanted == "fp8_tensor_dynamic" else module.wanted


def planned(checkpoint: Checkpoint) -> dict[str, Any]:
    """The plan that the checkpoint realizes."""
    found = linears(read_inventory(checkpoint.folder), checkpoint.config)
    shape = Model("it", checkpoint.config["architectures"][0], "llama", found)
    plan: dict[str, Any] = plan_of(shape.with_wanted(wanted)).model_dump(mode="json")
    for group in plan["groups"]:
        scales = [checkpoint.tensors.get(f"{name}.input_scale") for name in group["members"]]
        if scales[0] is not None:
            value = float(scales[0].floats)
            own = {"members": group["members"], "input_amax": value * 448, "input_scale": value}
            group["scales"] = [own]
    return plan


def with_plan(change: Callable[[Checkpoint, dict[str, Any]], Any]) -> Spoil:
    """The checkpoint's own plan beside it, and then `change`, which may edit either."""

    def spoil(checkpoint: Checkpoint) -> None:
        plan = planned(checkpoint)
        change(checkpoint, plan)
        (checkpoint.folder / "plan.json").write_text(json.dumps(plan))
        checkpoint.save()

    return spoil


def more_layers(plan: dict[str, Any]) -> None:
    """Layer 1 of the plan, once more as layer 2."""
    for key in ("modules", "groups"):
        text = json.dumps([each for each in plan[key] if ".layers.1." in each["name"]])
        plan[key] += json.loads(text.replace(".layers.1.", ".layers.2."))


def keep(plan: dict[str, Any], name: str) -> None:
    """Plan a linear that stands alone in BF16."""
    group = next(each for each in plan["groups"] if name in each["members"])
    group |= {"precision": "bf16", "scales": []}
    plan["ignore"] = [*plan["ignore"], name]
