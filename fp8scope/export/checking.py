"""export and check from end to end: a document for a consumer, and the proof of what it will do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from fp8scope.artefacts.plan import Plan
from fp8scope.checkpoint.planned import planned_model
from fp8scope.core.modules import Model
from fp8scope.errors import BadInput
from fp8scope.export.consumer import CannotExpress, CannotRead, Config, Consumer, Document, Reading
from fp8scope.export.faults import Fault
from fp8scope.export.intent import intended, without_exclusions
from fp8scope.export.mending import as_document, relisted
from fp8scope.export.neglected import cache_faults, cache_of, idle_faults, neglected
from fp8scope.export.proof import Proof, prove
from fp8scope.export.registry import all_consumers, consumer, names
from fp8scope.export.subject import Subject, read_subject


@dataclass(frozen=True)
class Checked:
    """What a consumer will do with a config. `says`: who said what each layer should run in;
    `rule`: how the consumer matches lists of this form.

    `corrected` makes it do just that; where nothing can, `why_not` says why. Both are empty where
    the proof holds.
    """

    consumer: str
    version: str
    form: str
    source: str
    says: str
    proof: Proof
    rule: str = ""
    corrected: Document | None = None
    why_not: str = ""


def export_plan(plan: Plan, to: str) -> Document:
    """The plan as consumer `to` takes it.

    Raises BadInput for an unknown consumer, and CannotExpress where it has no words for the plan.
    """
    return _written(consumer(to), planned_model(plan))


def check(
    path: Path, by: str, *, version: str | None = None, model: str | None = None, form: str = ""
) -> Checked:
    """What consumer `by` will do with a plan, a checkpoint or a config at `path`.

    model: of a config, the folder, the plan or the hub id that has the modules. form: of a plan, in
    which it is handed over; "" for the first that is proven to work. Raises BadInput.
    """
    reader = _reader(by)
    version = _known_version(reader, version)
    subject = read_subject(path, model)
    if not subject.configs:
        return _check_plan(subject, reader, version, form)
    if form:
        raise BadInput(f"{path} is no plan, it has the form that it has", "leave out --as")
    return _check_configs(subject, reader, version)


def _check_plan(subject: Subject, reader: Consumer, version: str, form: str) -> Checked:
    if form and form not in reader.reads:
        raise BadInput(f"{reader.name} does not read {form}", f"one of {', '.join(reader.reads)}")
    failed, refusals = [], []
    for each in (form,) if form else reader.reads:
        if each not in names():
            continue  # nobody writes it
        try:
            document = _written(consumer(each), subject.model)
        except CannotExpress as refusal:
            if len(reader.reads) == 1:
                raise
            refusals.append(f"{each}: {refusal}")
            continue
        config = Config(each, document.config, f"what export --to {each} writes")
        proof = _proof(reader, config, subject.model, version)
        checked = _checked(reader, version, config, subject.says, proof)
        if checked.proof.holds:
            return checked
        failed.append(checked)
    if failed:
        return replace(failed[0], why_not="; ".join(refusals) or "it has no other form")
    what = f"no form that {reader.name} reads can express this plan"
    raise CannotExpress(what, "; ".join(refusals) or "it reads no plan")


def _check_configs(subject: Subject, reader: Consumer, version: str) -> Checked:
    believed = subject.configs.get(reader.believes)
    config = believed or next(iter(subject.configs.values()))
    model, says = subject.model, subject.says
    if not says:
        reading = _read(reader, config, model, version)
        bare = _read(reader, without_exclusions(config), model, version)
        model = replace(intended(model, reading, bare), kv_cache=cache_of(config) or "bf16")
        says = "the list seems to mean, fused layers whole"
    proof = _proof(reader, config, model, version)
    others = [other for other in subject.configs.values() if other is not config]
    for other in others:
        try:
            told = prove(_read(reader, other, model, version))
        except CannotRead:
            continue  # a form that is not for this consumer
        proof = replace(proof, faults=(*proof.faults, *_disagreement(reader, proof, other, told)))
    checked = _checked(reader, version, config, says, proof)
    return checked if proof.holds else _with_correction(checked, reader, config, model)


def _disagreement(reader: Consumer, proof: Proof, other: Config, told: Proof) -> Iterator[Fault]:
    """Metadata in two files: consumers believe one or the other, so both must say the same."""
    runs = {row.layer.name: row.outcome.treatment for row in told.rows}
    apart = [r.layer.name for r in proof.rows if runs.get(r.layer.name) != r.outcome.treatment]
    if apart:
        what = f"{other.source} says otherwise of {len(apart)} layers, such as {apart[0]}"
        sentence = f"{what}: {reader.name} believes {reader.believes}, others do not"
        yield Fault("different", sentence, tuple(apart))


def _with_correction(checked: Checked, reader: Consumer, config: Config, model: Model) -> Checked:
    """With the document that makes the consumer do what is wanted, proven before it is offered."""
    form = config.form if config.form in names() else _other_form(reader)
    reading = reader.reads[config.form](config, model, checked.version)
    for candidate in relisted(config, model, reading):
        if _proof(reader, candidate, model, checked.version).holds:
            return replace(checked, corrected=as_document(candidate, checked.form))
    try:
        document = _written(consumer(form), model)
        again = Config(form, document.config, f"what export --to {form} writes")
        if not (proof := _proof(reader, again, model, checked.version)).holds:
            return replace(checked, why_not=_first(proof))
    except (CannotExpress, CannotRead) as refusal:
        return replace(checked, why_not=str(refusal))
    return replace(checked, corrected=document)


def _other_form(reader: Consumer) -> str:
    """Of a form that nobody writes, the one that this consumer prefers."""
    return next(form for form in reader.reads if form in names())


def _proof(reader: Consumer, config: Config, model: Model, version: str) -> Proof:
    """Of the lists, and of what else the config says. Raises CannotRead."""
    reading = _read(reader, config, model, version)
    proof = prove(reading)
    faults = (fault for fault in proof.faults if not _names_others(fault, model))
    found = (*faults, *neglected(config, reading), *cache_faults(config, model))
    return replace(proof, faults=found or tuple(idle_faults(config, reading, proof.rows)))


def _names_others(fault: Fault, model: Model) -> bool:
    """Whether a fault is of entries that match norms or embeddings alone: exporters list them."""
    is_dead = fault.kind == "nothing" and not fault.layers
    return is_dead and all(
        pattern.text in model.others
        or any(fnmatchcase(name, pattern.text) for name in model.others)
        for pattern in fault.patterns
    )


def _first(proof: Proof) -> str:
    return proof.faults[0].sentence if proof.faults else "its layers would still differ"


def _checked(reader: Consumer, version: str, config: Config, says: str, proof: Proof) -> Checked:
    rule = reader.rules.get(config.form, "")
    return Checked(reader.name, version, config.form, config.source, says, proof, rule)


def _written(writer: Consumer, model: Model) -> Document:
    if writer.write is None:
        raise CannotExpress(f"nothing is written for {writer.name}", _writers())
    if model.wanted() <= {"bf16"} and writer.name != "list":
        what = f"no layer of {model.name} is in FP8: there is nothing to say to {writer.name}"
        raise CannotExpress(what, "serve the BF16 checkpoint as it is")
    return writer.write(model)


def _read(reader: Consumer, config: Config, model: Model, version: str) -> Reading:
    if config.form not in reader.reads:
        what = f"{config.source}: how {reader.name} reads {config.form} is not known here"
        raise CannotRead(what, f"known are {', '.join(reader.reads)}")
    return reader.reads[config.form](config, model, version)


def _reader(name: str) -> Consumer:
    found = consumer(name)
    if not found.reads:
        readers = [each.name for each in all_consumers() if name in each.reads]
        if not readers:
            raise BadInput(f"{name} is for people: no engine reads it", "check the plan for one")
        what = f"{name} is a form that others read"
        raise BadInput(what, f"--for {' or '.join(readers)}")
    return found


def _known_version(reader: Consumer, version: str | None) -> str:
    if version is None:
        return reader.versions[-1]
    alike = [v for v in reader.versions if _are_alike(v, version)]
    if not alike:
        what = f"what {reader.name} {version} does is not known"
        raise BadInput(what, f"its source was read at {', '.join(reader.versions)}")
    return alike[-1]


def _are_alike(known: str, asked: str) -> bool:
    """`0.33` is 0.33.0, and 1.2.4 is 1.2."""
    return known == asked or f"{known}.".startswith(f"{asked}.") or asked.startswith(f"{known}.")


def _writers() -> str:
    return f"one of {', '.join(each.name for each in all_consumers() if each.write is not None)}"
