# an online config: the engine quantizes a BF16 checkpoint while loading it
# transformers 5, mixtral
from transformers import FineGrainedFP8Config

config = FineGrainedFP8Config(
    activation_scheme="dynamic",
    weight_block_size=[128, 128],
    modules_to_not_convert=[
        "model.layers.0.mlp.gate",
        "model.layers.0.mlp.experts",
        "model.layers.1.mlp.gate",
        "lm_head",
    ],
)
