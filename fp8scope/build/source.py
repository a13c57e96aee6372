"""The plan's model: found, told from others, and loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from fp8scope.artefacts.identity import check_same_model
from fp8scope.artefacts.plan import Plan
from fp8scope.build.finish import check_architecture
from fp8scope.build.memory import check_needs, needs
from fp8scope.build.order import Events, Order
from fp8scope.checkpoint.identity import config_hash, weights_hash
from fp8scope.checkpoint.inventory import read_inventory
from fp8scope.demo.files import DEMO_MODEL
from fp8scope.errors import BadInput, BadModel
from fp8scope.runtime.devices import check_device
from fp8scope.runtime.folders import model_folder
from fp8scope.runtime.loading import DTYPES, LoadedModel, LoadOptions, load

DEMO = "demo"


def reference_of(plan: Plan, model: str = "") -> str:
    """The folder or hub id of the plan's model, unless `model` names one."""
    name = model or plan.model.name
    return str(DEMO_MODEL) if name == DEMO else name


def load_source(order: Order, output: Path, events: Events) -> tuple[LoadedModel, int]:
    """The model, and the bytes of its tensors in the files. Whose it is, and what building it takes
    for `output`, is known from its files, so that it is refused before it is loaded.

    Raises as `build_checkpoint`.
    """
    plan, options = order.plan, order.options
    check_device(options.device)
    pickles = options.allow_pickle
    try:
        home = model_folder(order.reference, code=options.trust_remote_code, pickles=pickles)
    except BadModel as error:
        raise BadModel(error.what, "say where the plan's model is with --model") from error
    dtype = options.dtype or plan.model.dtype
    if dtype not in DTYPES:
        raise BadInput(f"the plan is of a model in {dtype}", f"--dtype {' or '.join(DTYPES)}")
    wanted, before = plan.model.model_dump(), 0
    remedy = f"give {plan.model.name} with --model, or plan this one"
    if any(home.glob("*.safetensors")):
        inventory = read_inventory(home)
        files = {"config_hash": config_hash(home), "weights_hash": weights_hash(inventory)}
        check_same_model(files, order.reference, wanted, "the plan", remedy)
        at_once = None if order.format == "modelopt" else order.shard_bytes
        found = needs(plan, inventory, DTYPES[dtype], at_once)
        events.needs(found)
        check_needs(found, output, torch.device(options.device))
        before = inventory.nbytes()
    events.step("loading the model")
    chosen = LoadOptions(dtype, options.device, options.trust_remote_code, pickles)
    loaded = load(str(home), chosen)
    check_same_model(loaded.identity, order.reference, wanted, "the plan", remedy)
    check_architecture(loaded.config, plan.model.architecture)
    return loaded, before
