"""What an export says of itself: a README that is its model card, and the licences. It has no dates and no names of
ours, so that equal bundles are described equally.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from handful.recipe import as_dict
from handful.v1.bundle_pb2 import WEIGHTS_RANDOM, Evaluation, ModelManifest
from services.trainer.architectures import PinnedWeights
from services.trainer.exports import usage
from services.trainer.exports.bundle import Bundle
from services.trainer.exports.formats import Format
from services.trainer.exports.nearness import Nearness

LICENSES = Path(__file__).parent / "shipped" / "licenses"
OURS = "Apache-2.0"
SHOWN_LABELS = 5
_ORIGINS = {
    "pretrained": "pretrained, and not changed by training",
    "random": "random numbers",
    "trained": "changed by training",
    "none": "it has none",
}
_NAMES_ONE = "It knows the classes above and no others: whatever a picture shows, it names one of them."
_TELLS = (
    "It knows the classes above and no others. A picture of something else entirely is called unknown, as is about one "
    "in twenty of the classes; what only looks like one of them is taken for it."
)
_COPYLEFT = (
    "The network was built and trained by {library}, which is under {license} (`LICENSES/{license}.txt`). Its makers "
    "say that models made with it are under the same: whoever gets this one, or uses it over a network, is to get the "
    "source of what it is part of, unless other terms were bought of them."
)
_LIMITS = """\
## Limits

- {unknown}
- It was measured on {num_val} pictures. The fewer there are, the less the figures say; pictures of another kind than
  these, from another camera or place, may be told apart worse.
- A probability is the network's own opinion, not a measured frequency.
- `golden.npz`, and `bundle/` where it is there, hold pictures of the data. Mind who may see them.
"""
_SAME = "every best class is the same"
_NEAR = """\
## How near it is to the model

This is the format {title}. On the {num} pictures of `golden.npz` its probabilities differ from the model's by at most
{said:g}, and {others}; above {bound:g} it would not have been exported. {more} All
other figures here are of the model itself.
"""
_FEW = "So few pictures say little of\nothers: try it on your own."
_ON_EXAMPLES = """On {num} pictures
that the model was validated on they differ by at most {said:g}, and {others}; above {bound:g}, or with
more others than {most}, it would not have been exported."""


def write(bundle: Bundle, wanted: Format, near: Sequence[Nearness], names: list[str]) -> dict[str, bytes]:
    """README.md and export.json, of an export with files of those names. How near it is comes of golden inputs first,
    and then, where it was tried on any, of examples.
    """
    told: dict[str, object] = {
        "format": wanted.name,
        "max_abs_diff": wanted.max_abs_diff,
        "same_classes": wanted.same_classes,
        "measured": {"num_golden": near[0].num, **_figures_of(near[0])},
    }
    if len(near) > 1:
        told["measured_on_examples"] = {"num_examples": near[1].num, **_figures_of(near[1])}
    return {
        "README.md": _readme(bundle, wanted, near, [*names, "export.json"]).encode(),
        "export.json": (json.dumps(told, indent=2) + "\n").encode(),
    }


def _figures_of(near: Nearness) -> dict[str, float]:
    return {"max_abs_diff": near.said, "flips": near.flips}


def _readme(bundle: Bundle, wanted: Format, near: Sequence[Nearness], names: list[str]) -> str:
    model, evaluation = bundle.model, bundle.evaluation
    named = ", ".join(map(_escape, model.labels[:SHOWN_LABELS]))
    more = f" and {len(model.labels) - SHOWN_LABELS} more" if len(model.labels) > SHOWN_LABELS else ""
    kind, described = ("Sound", bundle.sound_row) if bundle.of_sounds else ("Image", bundle.row)
    unknown = _worded(_TELLS if model.HasField("neighbours") else _NAMES_ONE, model)
    limits = _worded(_LIMITS, model).format(unknown=unknown, num_val=sum(one.num_val for one in model.examples))
    parts = (
        f"# {kind} classifier: {named}{more}\n\n{described.description} Trained and exported with Handful.\n",
        usage.use(model, names),
        _classes(model, evaluation),
        _figures(model, evaluation),
        _worded(usage.wary(model, wanted.promise_refusal, names), model),
        _worded(_near(wanted, near), model),
        _making(bundle),
        limits,
        _worded("## What is in here\n\n" + _table(("file", "what it is"), usage.files(names)), model),
        _terms(bundle),
    )
    return "\n".join(parts)


def _near(wanted: Format, near: Sequence[Nearness]) -> str:
    first, more = near[0], _FEW
    if len(near) > 1 and wanted.in_fewer_bits:
        bound = wanted.in_fewer_bits
        told = {"num": near[1].num, "said": near[1].said, "others": _others(near[1])}
        more = _ON_EXAMPLES.format(**told, bound=bound.max_abs_diff, most=bound.most_flips(near[1].num))
    told = {"num": first.num, "said": first.said, "others": _others(first)}
    return _NEAR.format(title=wanted.title, **told, bound=wanted.max_abs_diff, more=more)


def _others(near: Nearness) -> str:
    return f"{near.flips} of {near.num} best classes are others" if near.flips else _SAME


def _worded(template: str, model: ModelManifest) -> str:
    """Words of ours, before anyone's labels are in them."""
    if not model.backbone.HasField("sound_preprocessing"):
        return template
    return template.replace("camera", "microphone").replace("picture", "sound")


def licenses(bundle: Bundle) -> dict[str, bytes]:
    """The files of `LICENSES/`."""
    needed = {OURS} | {weights.license for weights in _weights(bundle)}
    if not bundle.of_sounds:
        needed |= {bundle.row.code_license} - {""}
    return {f"LICENSES/{name}.txt": (LICENSES / f"{name}.txt").read_bytes() for name in sorted(needed)}


def _classes(model: ModelManifest, evaluation: Evaluation) -> str:
    rows = (
        (
            _escape(label),
            str(counts.num_train),
            str(counts.num_val),
            *(f"{figure:.3f}" for figure in (measured.precision, measured.recall, measured.f1)),
        )
        for label, counts, measured in zip(model.labels, model.examples, evaluation.classes, strict=True)
    )
    return "## Classes\n\n" + _table(("class", "trained on", "measured on", "precision", "recall", "F1"), rows)


def _figures(model: ModelManifest, evaluation: Evaluation) -> str:
    rows = ((f"`{metric.name}`", f"{metric.value:.4f}") for metric in evaluation.metrics)
    if not evaluation.metrics:
        return _worded("## How good it is\n\nThat is not known: there were no pictures to measure it on.\n", model)
    said = _worded("## How good it is\n\nOn pictures that it was not trained on:\n\n", model)
    return said + _table(("figure", ""), rows)


def _making(bundle: Bundle) -> str:
    model, backbone, parity = bundle.model, bundle.model.backbone, bundle.model.parity
    built = "" if bundle.of_sounds else f" ({bundle.row.network.library}: {bundle.row.network.name})"
    rows = [
        ("architecture", f"{backbone.architecture}{built}"),
        ("its weights", _ORIGINS[backbone.weights_origin]),
        *([("made integers by", backbone.quantizer)] if backbone.quantizer else []),
        *((f"recipe: {name}", str(value)) for name, value in as_dict(model.recipe).items()),
        ("dataset manifest, SHA-256", f"`{model.dataset_manifest_sha256}`"),
        ("features computed by", model.numerics),
        ("checked on publishing", f"{parity.num_examples} examples, largest difference {parity.max_abs_diff:.1e}"),
        *((f"note: {notice.reason}", _escape(notice.message)) for notice in model.notices),
    ]
    return "## How it was made\n\n" + _table(("", ""), rows)


def _terms(bundle: Bundle) -> str:
    lines = [f"The code in this folder: {OURS}."]
    row = None if bundle.of_sounds else bundle.row
    if row is not None and row.code_license:
        lines.append(_COPYLEFT.format(library=row.network.library, license=row.code_license))
    for weights in _weights(bundle):
        begun = f"The weights began as those of {weights.source}, SHA-256 `{weights.sha256}`: {weights.license}."
        lines.append(f"{begun} {weights.license_note}".strip())
    lines.append("The data that it was trained on has terms of its own, which are not known here.")
    return "## Licences\n\n" + "".join(f"- {line}\n" for line in lines)


def _weights(bundle: Bundle) -> list[PinnedWeights]:
    """The pretrained weights that the model began from."""
    if bundle.of_sounds:
        return list(bundle.sound_row.weights.values())
    model, row = bundle.model, bundle.row
    began = model.backbone.weights_origin != "random" and model.recipe.weights != WEIGHTS_RANDOM
    return list(row.pinned) if began else []


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escape(text: str) -> str:
    # Labels are anyone's words; in a README they shall stay words.
    return re.sub(r"([\\`*_{}\[\]<>()#+!|&])", r"\\\1", text)
