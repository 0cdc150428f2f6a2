"""Records that nothing was run for: what tests of tables, plots and pages read."""

from ddbench.hashing import digest
from ddbench.records.record import Record

RUN = {"device": "cpu", "precision": "float32", "threads": 1, "build": "2.9.0", "date": "2026-01-31T12:00:00+00:00"}


def a_record(
    method,
    values,
    *,
    ipc=1,
    synthesis=0,
    name="paper",
    recipe=None,
    made=None,
    run=None,
    facts=None,
    curve=None,
    **changes,
):
    """A record on digits under hard-v1 with a run for each value.

    `ipc` None is all the data; `recipe` takes the place of the usual one; `made` changes the set's hash; `run` is added
    to every run, `facts` to the set's; `curve` holds the shares of the accuracy by the step of the distillation.
    """
    usual = {"method": method, "name": name, "ipc": ipc, "hyper": {"lr": 0.1}}
    recipe = usual if recipe is None else recipe
    synset = digest([recipe, synthesis, made])
    every = RUN | {"synset": synset, "status": "ok", "seconds": 2.0} | (run or {})
    size = {"images": 2560, "images_encoded": 700 + synthesis, "external": 300}
    about = {"images": 10 * (ipc or 20), "bytes": size, "cost": {"seconds": 8.0 + synthesis}}
    fields = {"protocol": "hard-v1", "protocol_version": 1, "protocol_digest": digest("hard"), "dataset": "digits"}
    fields |= {"budget": {"all": True} if ipc is None else {"ipc": ipc}, "method": method, "synthesis_seed": synthesis}
    fields |= {"student_network": "convnet-d2", "distill_network": "convnet-d2"}
    fields |= {"recipe": recipe, "recipe_hash": digest(recipe), "synsets": {synset: about | (facts or {})}}
    fields["runs"] = [every | {"seed": seed, "top1": top1} for seed, top1 in enumerate(values)]
    for each in fields["runs"] if curve else ():
        each["snapshots"] = [{"step": step, "top1": each["top1"] * share} for step, share in curve.items()]
    return Record.model_validate(fields | changes)


def without_set(method, status, reason, **changes):
    """A record whose one run gave no accuracy and no set."""
    run = RUN | {"seed": 0, "synset": None, "status": status, "reason": reason}
    return a_record(method, (), runs=[run], synsets={}, **changes)
