# an online config: the engine quantizes a BF16 checkpoint while loading it
# torchao 0.18; names of phi3, transformers 5
from collections import OrderedDict

from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, FqnToConfig
from torchao.quantization.granularity import PerRow

fp8_token = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
config = FqnToConfig(
    OrderedDict(
        {
            "model.layers.0.self_attn.qkv_proj": fp8_token,
            "model.layers.0.self_attn.o_proj": fp8_token,
            "model.layers.0.mlp.gate_up_proj": fp8_token,
            "model.layers.0.mlp.down_proj": fp8_token,
            "model.layers.1.self_attn.qkv_proj": fp8_token,
            "model.layers.1.self_attn.o_proj": fp8_token,
            "model.layers.1.mlp.gate_up_proj": None,
            "model.layers.1.mlp.down_proj": fp8_token,
            "lm_head": None,
        }
    )
)
