# an online config: the engine quantizes a BF16 checkpoint while loading it
# torchao 0.18; names of mixtral, transformers 5
from collections import OrderedDict

from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, FqnToConfig
from torchao.quantization.granularity import PerRow

fp8_token = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
config = FqnToConfig(
    OrderedDict(
        {
            "model.layers.0.self_attn.q_proj": fp8_token,
            "model.layers.0.self_attn.k_proj": fp8_token,
            "model.layers.0.self_attn.v_proj": fp8_token,
            "model.layers.0.self_attn.o_proj": fp8_token,
            "model.layers.0.mlp.gate": None,
            "model.layers.1.self_attn.q_proj": fp8_token,
            "model.layers.1.self_attn.k_proj": fp8_token,
            "model.layers.1.self_attn.v_proj": fp8_token,
            "model.layers.1.self_attn.o_proj": fp8_token,
            "model.layers.1.mlp.gate": None,
            "model.layers.1.mlp.experts.gate_up_proj": fp8_token,
            "model.layers.1.mlp.experts.down_proj": fp8_token,
            "lm_head": None,
        }
    )
)
