"""What a list that somebody wrote means to a person."""

from __future__ import annotations

import pytest

from fp8scope.export.intent import means

DOWN = "model.layers.1.mlp.down_proj"
TENTH = "model.layers.10.mlp.down_proj"


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        (DOWN, [DOWN], [TENTH]),
        ("layers.1.mlp.down_proj", [DOWN], [TENTH]),
        ("model.layers.1", [DOWN], [TENTH]),
        ("model.layers.1.", [DOWN], [TENTH]),
        ("model.layers.1*", [DOWN], [TENTH]),
        ("model.layers.1.*", [DOWN], [TENTH]),
        ("layers.1", [DOWN], [TENTH]),
        ("*.down_proj", [DOWN, TENTH], ["model.layers.1.mlp.up_proj"]),
        ("down_proj", [DOWN, TENTH], ["model.layers.1.mlp.up_down_proj"]),
        ("down_proj.weight", [DOWN, TENTH], []),
        ("mlp.gate", ["model.layers.1.mlp.gate"], ["model.layers.1.mlp.gate_up_proj"]),
        ("model.layers.1.self_attn*", ["model.layers.1.self_attn.o_proj"], [DOWN]),
        (r"re:.*layers\.1\..*down_proj$", [DOWN], [TENTH]),
        ("re:.*down_proj$", [DOWN, TENTH], ["model.layers.1.mlp.up_proj"]),
        ("re:([", [], [DOWN]),
        ("re:down_proj", [DOWN, TENTH], ["model.layers.1.mlp.up_proj"]),
        ("re:*.down_proj", [DOWN, TENTH], ["model.layers.1.mlp.up_proj"]),
        (r"^model\.layers\.1\.mlp\.down_proj$", [DOWN], [TENTH]),
        # prefixes of vision-language models stand in either order, or not at all
        ("re:visual.*", ["visual.blocks.0.attn.qkv", "model.visual.blocks.0.attn.qkv"], [DOWN]),
        (r"re:^model\.visual\..*", ["visual.blocks.0.attn.qkv"], [DOWN]),
        ("re:model.*", [DOWN, TENTH], ["visual.blocks.0.attn.qkv"]),
        ("model.vision_tower*", ["vision_tower.blocks.0.attn.qkv"], [DOWN]),
        ("language_model.model.layers.1", ["model.language_model.layers.1.mlp.up_proj"], [TENTH]),
        ("model.layers.1", ["model.language_model.layers.1.mlp.up_proj"], [TENTH]),
        ("lm_head", ["lm_head", "language_model.lm_head"], [DOWN]),
        # a quantizer means what it quantizes
        (f"{DOWN}.weight_quantizer", [DOWN], [TENTH]),
        ("mlp.experts.gate_up_proj_weight_quantizers.3", ["mlp.experts.gate_up_proj"], [DOWN]),
        ("*weight_quantizer", [], [DOWN]),
        ("*mlp*input_quantizer*", [DOWN, TENTH], ["model.layers.1.self_attn.o_proj"]),
        ("", [], [DOWN]),
        ("model.", [], [DOWN]),
    ],
)
def test_read_as_a_person_reads_it(text: str, yes: list[str], no: list[str]) -> None:
    assert [name for name in (*yes, *no) if means(text, name)] == yes
