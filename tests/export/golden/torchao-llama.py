# an online config: the engine quantizes a BF16 checkpoint while loading it
# torchao 0.18; names of llama, transformers 5
from collections import OrderedDict

from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, FqnToConfig
from torchao.quantization.granularity import PerBlock, PerRow

fp8_token = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
fp8_block = Float8DynamicActivationFloat8WeightConfig(
    granularity=[PerBlock([1, 128]), PerBlock([128, 128])]
)
config = FqnToConfig(
    OrderedDict(
        {
            "model.layers.0.self_attn.q_proj": fp8_token,
            "model.layers.0.self_attn.k_proj": fp8_token,
            "model.layers.0.self_attn.v_proj": fp8_token,
            "model.layers.0.self_attn.o_proj": fp8_token,
            "model.layers.0.mlp.gate_proj": fp8_token,
            "model.layers.0.mlp.up_proj": fp8_token,
            "model.layers.0.mlp.down_proj": None,
            "model.layers.1.self_attn.q_proj": fp8_token,
            "model.layers.1.self_attn.k_proj": fp8_token,
            "model.layers.1.self_attn.v_proj": fp8_token,
            "model.layers.1.self_attn.o_proj": fp8_token,
            "model.layers.1.mlp.gate_proj": fp8_token,
            "model.layers.1.mlp.up_proj": fp8_token,
            "model.layers.1.mlp.down_proj": fp8_block,
            "lm_head": None,
        }
    )
)
