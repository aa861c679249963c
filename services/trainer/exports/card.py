"""What an export says of itself: a README that is its model card, and the licences. It has no dates and no names of
ours, so that equal bundles are described equally.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from handful.recipe import as_dict
from handful.v1.bundle_pb2 import BACKBONE_PRECISION_INT8, WEIGHTS_RANDOM, Evaluation, ModelManifest
from services.trainer.architectures import PinnedWeights
from services.trainer.exports.bundle import Bundle

LICENSES = Path(__file__).parent / "shipped" / "licenses"
OURS = "Apache-2.0"
SHOWN_LABELS = 5
_ORIGINS = {
    "pretrained": "pretrained, and not changed by training",
    "random": "random numbers",
    "trained": "changed by training",
    "none": "it has none",
}
_USE = """\
## Use it

Python 3.11 or newer.

```sh
python3 -m venv .venv && . .venv/bin/activate
pip install -r requirements.txt
python predict.py some.jpg
python predict.py --self-test
```

The self-test asks the model about the pictures that came with it, and compares its answers with those it gave where it
was made. From other languages: `model.onnx` takes `pixels` uint8[n, {size}, {size}, 3], RGB, and gives `probabilities`,
`logits` and `features`. Scaling and normalisation are in the graph; `preprocessing.json` says how a picture becomes
pixels, and `images.py` does it.
"""
_USE_SOUND = """\
## Use it

Python 3.11 or newer.

```sh
python3 -m venv .venv && . .venv/bin/activate
pip install -r requirements.txt
python predict.py some.wav
python predict.py --self-test
```

The self-test asks the model about the sounds that came with it, and compares its answers with those it gave where it
was made. `preprocessing.json` says how a piece of a sound becomes the inputs of `model.onnx`, one for each spectrogram,
and `sounds.py` does it; the graph gives `probabilities`, `logits` and `features` of that piece. A sound that is longer
than {seconds:g} s is cut into pieces, and its answer is the mean of theirs.
"""
_NAMES_ONE = "It knows the classes above and no others: whatever a picture shows, it names one of them."
_TELLS = (
    "It knows the classes above and no others. A picture of something else entirely is called unknown, as is about one "
    "in twenty of the classes; what only looks like one of them is taken for it."
)
_FILES = """\
## What is in here

| file | what it is |
|---|---|
| `model.onnx` | the whole network as one ONNX graph |
| `predict.py`, `images.py`, `requirements.txt` | prediction with numpy, onnxruntime and Pillow alone |
| `labels.json` | the classes by index, and the indices by class |
| `preprocessing.json` | how pictures come to the network |
{torch}{neighbours}| `golden.npz` | pictures at the input size, the answers to them, and the first of them as a file |
| `bundle/` | what Handful loads the model back from: `handful import ZIP` |
| `LICENSES/` | the terms of the code and of the weights |
"""
_FILES_SOUND = """\
## What is in here

| file | what it is |
|---|---|
| `model.onnx` | the whole network as one ONNX graph |
| `predict.py`, `sounds.py`, `recordings.py`, `requirements.txt` | prediction with numpy, onnxruntime, soundfile alone |
| `labels.json` | the classes by index, and the indices by class |
| `preprocessing.json` | how sounds come to the network |
{neighbours}| `golden.npz` | sounds as files, and the answers to them |
| `bundle/` | what Handful loads the model back from: `handful import ZIP` |
| `LICENSES/` | the terms of the code and of the weights |
"""
_TORCH = "| `model.py`, `network.json` | the same network in PyTorch, from the weights in `bundle/` |\n"
_NEIGHBOURS = "| `neighbours.npz` | features of the training pictures: what is far from all of them is unknown |\n"
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
- `golden.npz` and `bundle/golden.safetensors` hold pictures of the data. Mind who may see them.
"""


def write(bundle: Bundle) -> str:
    """README.md."""
    model, evaluation, of_sounds = bundle.model, bundle.evaluation, bundle.of_sounds
    named = ", ".join(map(_escape, model.labels[:SHOWN_LABELS]))
    knows = model.HasField("neighbours")
    more = f" and {len(model.labels) - SHOWN_LABELS} more" if len(model.labels) > SHOWN_LABELS else ""
    kind, described = ("Sound", bundle.sound_row) if of_sounds else ("Image", bundle.row)
    limits = _worded(_LIMITS, model).format(
        unknown=_worded(_TELLS if knows else _NAMES_ONE, model), num_val=sum(one.num_val for one in model.examples)
    )
    of_integers = model.backbone.precision == BACKBONE_PRECISION_INT8
    neighbours = _worded(_NEIGHBOURS, model) if knows else ""
    parts = (
        f"# {kind} classifier: {named}{more}\n\n{described.description} Trained and exported with Handful.\n",
        _use(model),
        _classes(model, evaluation),
        _figures(model, evaluation),
        _making(bundle),
        limits,
        (_FILES_SOUND if of_sounds else _FILES).format(neighbours=neighbours, torch="" if of_integers else _TORCH),
        _terms(bundle),
    )
    return "\n".join(parts)


def _worded(template: str, model: ModelManifest) -> str:
    """Words of ours, before anyone's labels are in them."""
    if not model.backbone.HasField("sound_preprocessing"):
        return template
    return template.replace("camera", "microphone").replace("picture", "sound")


def _use(model: ModelManifest) -> str:
    if model.backbone.HasField("sound_preprocessing"):
        return _USE_SOUND.format(seconds=model.backbone.sound_preprocessing.piece_seconds)
    return _USE.format(size=model.backbone.preprocessing.size)


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
    return [row.weights] if began and row.weights else []


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escape(text: str) -> str:
    # Labels are anyone's words; in a README they shall stay words.
    return re.sub(r"([\\`*_{}\[\]<>()#+!|&])", r"\\\1", text)
