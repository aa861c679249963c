"""What an export's README says of how it is used, and of each of its files."""

import json
from collections.abc import Iterable

from handful.bundle.error_control import least_rate
from handful.v1.bundle_pb2 import ModelManifest
from services.trainer.exports.browser import SHIPPED

_PYTHON = """\
## Use it

Python 3.11 or newer.

```sh
python3 -m venv .venv && . .venv/bin/activate
pip install -r requirements.txt
python predict.py {file}
python predict.py --self-test
```

The self-test asks the model about the {files} that came with it, and compares its answers with those it gave where it
was made.

"""
_PICTURES = """\
From other languages: `{graph}` takes `pixels` uint8[n, {size}, {size}, 3], RGB, and gives `probabilities`,
`logits` and `features`. Scaling and normalisation are in the graph; `preprocessing.json` says how a picture becomes
pixels, and `images.py` does it.
"""
_SOUNDS = """\
`preprocessing.json` says how a piece of a sound becomes the inputs of `{graph}`, one for each spectrogram,
and `sounds.py` does it; the graph gives `probabilities`, `logits` and `features` of that piece. A sound that is longer
than {seconds:g} s is cut into pieces, and its answer is the mean of theirs.
"""
_BROWSER = """\
## Use it

Any web server will do, for a start Python's own; then open http://localhost:8000.

```sh
python3 -m http.server
```

Elsewhere than on localhost browsers ask for HTTPS. In Node 18.17 or newer, whose `sharp` opens the files:

```sh
npm install sharp@0.34
node predict.mjs some.jpg
node predict.mjs --self-test
```

The network runs by ONNX Runtime Web {version}, of the MIT licence, which is not in here: page and script take two
files, 14 MB, from jsDelivr, and hold them against the hashes in `runtime.json`. With the files in a folder `vendor/`
they ask nobody:

```sh
npm pack onnxruntime-web@{version} && tar xzf onnxruntime-web-{version}.tgz && mkdir -p vendor
mv package/dist/{script} package/dist/{wasm} vendor/
```

`pixels.mjs` does in whole numbers what Pillow does where the model was trained. Of a PNG it makes the same pixels; if
that is higher than wide some may differ by a few levels of 255. A JPEG that is more than twice as large as the
network's input is decoded smaller there; here its pixels are averaged, which is nearly the same.
"""
_WARY = """\
## At most so many wrong

`{command}` says `unsure` where an answer is not sure enough, as Handful's
server does: of all that is asked, the unsure included, at most {rate} % is answered and wrong, on average over models
made and pictures asked as the training pictures were; one model may do somewhat worse, and of pictures unlike those
nothing is promised. It is reckoned from {num} groups of pictures, so less than 1 in {parts} is refused; where models of
fewer pictures (4 of 5 by default) answered these, as out of fold they do, it is an approximation. What is as near to
the threshold as the differences below may be unsure here and not there.{more}
"""
_OF_SEGMENTS = "\nOf a longer sound it is the segments that it is promised of."
_CHANGED = "\n`model.py` is there to be changed, and promises nothing."
_OF_PIXELS = """
The page has it to choose. Pixels of a JPEG, and of what is higher than wide, are nearly those of the server and not the
same: so is what is unsure of them."""
_NOTHING_PROMISED = """\
## At most so many wrong

That is not promised, and `--max-wrong` is refused: {why}
"""
_USUAL_RATE = 0.05  # of wrong answers, where so few can be promised
_NOT_MEASURED = "the model was measured on nothing that it was not fitted on, or an earlier\nrelease made it."

# Every file that stands in some format, in the order to be read. Of sounds "pictures" is another word.
_FILES = {
    "model.onnx": "the whole network as one ONNX graph",
    "model.xml": "the whole network as OpenVINO has it",
    "model.bin": "its numbers",
    "index.html": "the page",
    "page.mjs": "what it does: a file or the camera to classes",
    "predict.mjs": "the same for Node",
    "pixels.mjs": "how a picture becomes pixels, as `images.py` of Handful does it",
    "classifier.mjs": "pixels to classes; it tests itself",
    "error_control.mjs": "how sure an answer has to be so that few are wrong, as `error_control.py` of Handful has it",
    "runtime.mjs": "fetches ONNX Runtime Web and holds it against its hashes",
    "runtime.json": "its version, where it is had, and the hashes",
    "predict.py": "says what pictures show, and tests itself",
    "runner.py": "what runs the network, for `predict.py`",
    "promise.py": "how `--max-wrong` of `predict.py` is kept",
    "error_control.py": "how sure an answer has to be so that few are wrong",
    "images.py": "how a file becomes pixels",
    "recordings.py": "how a file becomes samples",
    "sounds.py": "how samples become spectrograms",
    "requirements.txt": "the packages that these need",
    "labels.json": "the classes by index, and the indices by class",
    "preprocessing.json": "how pictures come to the network",
    "model.py": "the same network in PyTorch, from the weights in `bundle/`",
    "network.json": "how `model.py` builds it",
    "neighbours.npz": "features of the training pictures: what is far from all of them is unknown",
    "neighbours.json": "how many of these are asked, and how far they may be",
    "neighbours.bin": "features of the training pictures, float32: what is far from all of them is unknown",
    "error_control.json": "what the model got wrong, and how surely",
    "golden.json": "the answers to golden pictures",
    "golden.bin": "these pictures at the input size",
    "golden.jpg": "the first of them as a file",
    "golden.png": "the first of them as a file",
    "golden.webp": "the first of them as a file",
    "golden.npz": "pictures, some at the input size and some as files, and the answers to them",
    "export.json": "the format, how near it comes to the model, and how near it has to",
    "bundle/": "what Handful loads the model back from: `handful import ZIP`",
    "LICENSES/": "the terms of the code and of the weights",
}


def use(model: ModelManifest, names: Iterable[str]) -> str:
    """How to run it, of an export with files of those names."""
    if "index.html" in names:
        web = json.loads((SHIPPED / "runtime.json").read_text())
        return _BROWSER.format(version=web["version"], script=web["script"]["name"], wasm=web["wasm"]["name"])
    graph = "model.onnx" if "model.onnx" in names else "model.xml"
    if model.backbone.HasField("sound_preprocessing"):
        sounds = _SOUNDS.format(graph=graph, seconds=model.backbone.sound_preprocessing.piece_seconds)
        return _PYTHON.format(file="some.wav", files="sounds") + sounds
    pictures = _PICTURES.format(graph=graph, size=model.backbone.preprocessing.size)
    return _PYTHON.format(file="some.jpg", files="pictures") + pictures


def wary(model: ModelManifest, refusal: str, names: Iterable[str]) -> str:
    """What is promised of wrong answers, or why nothing is: the format's refusal, if it has one."""
    if refusal or not model.HasField("error_control"):
        return _NOTHING_PROMISED.format(why=refusal or _NOT_MEASURED)
    program, more = "python predict.py", ""
    if "index.html" in names:
        program, more = "node predict.mjs", _OF_PIXELS
    elif "model.py" in names:
        more = _CHANGED
    elif model.backbone.HasField("sound_preprocessing"):
        more = _OF_SEGMENTS
    num = model.error_control.num_groups
    rate = f"{100 * max(_USUAL_RATE, least_rate(num)):g}"
    command = f"{program} --max-wrong {rate}% FILE"
    return _WARY.format(command=command, rate=rate, num=num, parts=num + 1, more=more)


def files(names: Iterable[str]) -> list[tuple[str, str]]:
    """What each file or folder is, of those that are there."""
    there = {name if "/" not in name else name.partition("/")[0] + "/" for name in names}
    return [(f"`{name}`", words) for name, words in _FILES.items() if name in there]
