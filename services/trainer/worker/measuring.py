"""Measuring a published model on a dataset version: answers, figures, plots; no training.

What the model was trained on is left out, and so are classes it does not know; the evaluation says so.
"""

import json
from collections import Counter
from dataclasses import replace

from handful.bundle import manifest
from handful.bundle.heads import LinearHead
from handful.v1.bundle_pb2 import BundleFile, Evaluation, ModelManifest
from services.shared.objects import get_first
from services.trainer.worker import plots
from services.trainer.worker.evaluation import evaluate, wrong_answers
from services.trainer.worker.examples import Example, Examples, targets
from services.trainer.worker.features import Features, gather
from services.trainer.worker.unseen import unseen
from services.trainer.worker.work import NoExamples, Work


def measure(work: Work) -> str:
    """Stores the evaluation; its SHA-256. NoExamples where nothing is left to measure on."""
    model = _model(work)
    examples = Examples.load(work.store, work.project, work.claim.dataset_manifest_sha256)
    learnt_from = (model.dataset_manifest_sha256, *model.earlier_dataset_manifest_sha256s)
    wanted = unseen(work, _known(work, model, examples), examples, learnt_from)
    if not wanted:
        raise NoExamples(
            "No example is left: the model was trained on them, or does not know their classes. "
            "Add examples of its classes that it has not seen."
        )
    keys = manifest.graph_keys(work.project, model.backbone, work.claim.evaluated_manifest_sha256)
    graph = get_first(work.store, keys, model.backbone.graph_sha256)
    features = Features(work.store, work.cache, examples, model.backbone, graph, work.threads)
    probabilities = _head(work, model).probabilities(gather(work, features, wanted))
    work.progress("publishing")
    groups = [one.group for one in wanted]
    evaluation = evaluate(model.labels, targets(wanted), probabilities, history=(), groups=groups)
    evaluation.wrong_answers.extend(wrong_answers(model.labels, wanted, probabilities))
    return _publish(work, model, evaluation)


def _model(work: Work) -> ModelManifest:
    digest = work.claim.evaluated_manifest_sha256
    data = work.store.get(manifest.bundle_key(work.project, digest, "manifest.json"), digest)
    return manifest.from_bytes(ModelManifest, data)


def _head(work: Work, model: ModelManifest) -> LinearHead:
    file = next(file for file in model.files if file.path == "head.safetensors")
    key = manifest.bundle_key(work.project, work.claim.evaluated_manifest_sha256, file.path)
    return LinearHead.from_bytes(model.head, work.store.get(key, file.sha256))


def _known(work: Work, model: ModelManifest, examples: Examples) -> list[Example]:
    """The examples of classes that the model has, with the model's class indices."""
    index = {label: position for position, label in enumerate(model.labels)}
    every = (*examples.train, *examples.val)
    unknown = Counter(label for label in (examples.labels[one.label] for one in every) if label not in index)
    if unknown:
        named = json.dumps(sorted(unknown), ensure_ascii=False)
        message = f"The model has no such classes: {named}. Their {unknown.total()} examples were left out."
        work.notice("UNKNOWN_CLASSES", message)
    labels = [examples.labels[one.label] for one in every]
    return [replace(one, label=index[label]) for one, label in zip(every, labels, strict=True) if label in index]


def _publish(work: Work, model: ModelManifest, evaluation: Evaluation) -> str:
    drawn = plots.draw(model.labels, evaluation)
    files = {f"plots/{name}.png": png for name, png in drawn.items()}
    evaluation.model_manifest_sha256 = work.claim.evaluated_manifest_sha256
    evaluation.dataset_manifest_sha256 = work.claim.dataset_manifest_sha256
    evaluation.notices.extend(work.notices)
    evaluation.plots.extend(
        BundleFile(path=path, sha256=manifest.sha256(png), size_bytes=len(png)) for path, png in sorted(files.items())
    )
    data = manifest.to_bytes(evaluation)
    digest = manifest.sha256(data)
    for path, png in files.items():
        work.store.put(manifest.evaluation_key(work.project, digest, path), png)
    work.store.put(manifest.evaluation_key(work.project, digest, "evaluation.json"), data)
    return digest
