"""How engines spell the range of a module when they are asked to tag them.

vLLM (`--enable-layerwise-nvtx-tracing`), SGLang (`--enable-layerwise-nvtx-marker`) and TensorRT-LLM
(`enable_layerwise_nvtx_marker`) share one hook's habit: the text of a dict, in the default domain,
`{'Module': 'top.model.layers.0.mlp.down_proj', 'TrainableParams': …, 'Inputs': [[8, 4096]]}`.
"""

from __future__ import annotations

import re

MODULE = re.compile(r"\{'Module': (['\"])(?P<name>.*?)\1")


def module_of(text: str) -> str:
    """The module that a range names, as the engine's model calls it.

    Empty where it names none: the whole model, a compiled one, or the outputs of a module, which
    vLLM pushes and pops after it. The first part of a name is the hook's own (`top`, or the class
    of the model).
    """
    match = MODULE.match(text)
    if match is None or ("'Outputs': " in text and "'Inputs': " not in text):
        return ""
    own, _, name = match["name"].partition(".")
    return name if " " not in own else ""
