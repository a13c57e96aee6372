"""However tokens are made, they are those of a whole forward pass over all that came before."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from fp8scope.verify.native.engine import Engine, open_engine
from fp8scope.verify.native.generators import Compiled, Eager, Generator, stays_in_place
from fp8scope.verify.native.prompts import prompts
from tests.verify.native import engines

NAMES = ("llama", "phi3", "mixtral", "mistral", "gemma2", "deepseek_v3", "gpt2")
STEPS = 5


@torch.no_grad()
def generated(generator: Generator, ids: Tensor) -> Tensor:
    tokens = [generator.prefill(ids).clone()]
    for _ in range(STEPS):
        tokens.append(generator.decode(tokens[-1].clone()).clone())
    return torch.cat(tokens, dim=1)


@torch.no_grad()
def expected(engine: Engine, ids: Tensor) -> Tensor:
    """Every token by a pass over all tokens, its cache thrown away."""
    whole = ids
    for _ in range(STEPS + 1):
        output = engine.model(input_ids=whole, past_key_values=engine.cache(), use_cache=True)
        whole = torch.cat([whole, output.logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return whole[:, ids.shape[1] :]


@pytest.mark.parametrize("name", NAMES)
def test_prefill_and_decode(name: str) -> None:
    """Sliding windows of 4 tokens, latent caches and routed experts included."""
    latent = name.startswith("deepseek")
    folder = engines.checkpoint(name, kv=not (latent or name == "gpt2"))
    order = engines.order(folder)
    engine = open_engine(order)
    ids = prompts(engine, order)
    assert torch.equal(generated(Eager(engine), ids), expected(engine, ids))


@pytest.mark.parametrize(
    ("name", "changes"),
    [("llama", {}), ("mistral", {"sliding_window": 64})],
    ids=str,
)
def test_compiled_without_a_break(
    name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole graphs, one of the prefill and one of all steps, which write where the first wrote:
    nothing of a step's position is a number of Python's. A wide window changes nothing of that.
    """
    graphs: list[Any] = []

    def backend(module: Any, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    torch.compiler.reset()
    whole = partial(torch.compile, backend=backend, fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    order = engines.order(engines.checkpoint(name, **changes))
    engine = open_engine(order)
    ids = prompts(engine, order)
    assert stays_in_place(engine, 9 + STEPS + 1)
    compiled = Compiled(engine, 9 + STEPS + 1)
    want = expected(engine, ids)
    for _ in range(2):
        assert torch.equal(generated(compiled, ids), want)
    assert len(graphs) == 2
    first, step = (attentions(graph) for graph in graphs)
    assert all(each["is_causal"] and each["attn_mask"] is None for each in first)
    assert all(each["attn_mask"] is not None for each in step)
    assert len(first) == len(step) == len(compiled._static.layers)
    held = compiled._static.layers[0]
    assert held.keys.dtype is torch.uint8
    assert held.keys.shape[2] == 9 + STEPS + 1


def attentions(graph: Any) -> list[dict[str, Any]]:
    """What each SDPA of a graph is called with."""
    return [node.kwargs for node in graph.graph.nodes if "scaled_dot" in str(node.target)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_inductor_makes_the_same_tokens() -> None:
    """With the C++ compiler of this machine."""
    torch.compiler.reset()
    order = engines.order(engines.checkpoint("llama", num_hidden_layers=1))
    engine = open_engine(order)
    ids = prompts(engine, order)
    compiled = Compiled(engine, 9 + STEPS + 1)
    assert torch.equal(generated(compiled, ids), expected(engine, ids))


def test_a_window_that_moves_does_not_stay_in_place() -> None:
    """Mistral's is 4 tokens here."""
    mistral = engines.engine("mistral")
    assert not stays_in_place(mistral, 4)
    assert stays_in_place(mistral, 3)


def test_prompts_are_the_same_again() -> None:
    order = engines.order(engines.checkpoint("llama"), batch=64, prompt_len=50)
    engine = open_engine(order)
    ids = prompts(engine, order)
    assert torch.equal(ids, prompts(engine, order))
    assert ids.shape == (64, 50)
    assert set(ids[:, 0].tolist()) == {0}  # BOS
    assert int(ids.min()) >= 0
    assert int(ids.max()) in range(300, engines.VOCABULARY)
