# an online config: the engine quantizes a BF16 checkpoint while loading it
# transformers 5, phi3
from transformers import FbgemmFp8Config

config = FbgemmFp8Config(
    activation_scale_ub=3.4028234663852886e38,
    modules_to_not_convert=[
        "model.layers.1.mlp.gate_up_proj",
        "lm_head",
    ],
)
