"""Every export format of one model, run by its own code: how large it is, how far its answers are from those of the
model, and how long one takes. Cats and dogs on the default architecture, compared on all pictures that validate, whose
pixels are made once: what is compared are networks and runtimes.

The zip in `onnx` is the model itself: its answers are what the others are held against. Milliseconds are the least of a
picture at a time, as each runtime comes: Python's with all cores, WebAssembly with one thread; they mean something on a
machine that does nothing else. The page for browsers runs in Node and, where there is Chromium, in that.

usage: exports.py [FOLDER]   (default: ../shared/data/catsdogs, with train/ and val/ in it)
"""

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from handful import Client
from handful.bundle.images import Preprocessing, decode, fit
from handful.cli.stack import Stack
from handful.errors import HandfulError
from services.trainer.exports.formats import DEFAULT, FORMATS
from tests.browsing import browser, site, with_vendor

ROOT = Path(__file__).parents[1]
BARE = ROOT / ".venv-export" / "bin" / "python"
MEGABYTE = 1e6
# In the folder of an export: probabilities of the pixels beside it, and milliseconds for each.
PYTHON = """
import json, time, numpy as np
from pathlib import Path
from runner import Network
network, answers, took = Network(Path()), [], []
for one in np.load("pixels.npy"):
    began = time.perf_counter()
    (row,) = network.run(["probabilities"], {"pixels": one[None]})
    took.append(1e3 * (time.perf_counter() - began))
    answers.append(row[0].tolist())
print(json.dumps([answers, took]))
"""
MEASURE = """
async function measure(classifier, pixels) {
  const [answers, took] = [[], []];
  const each = classifier.preprocessing.size ** 2 * 3;
  for (let start = 0; start < pixels.length; start += each) {
    const began = performance.now();
    const { probabilities } = await classifier.run(pixels.slice(start, start + each));
    took.push(performance.now() - began);
    answers.push([...probabilities]);
  }
  return [answers, took];
}
"""
NODE = (
    """
import { readFile } from "node:fs/promises";
import { Classifier } from "./classifier.mjs";
import { runtime } from "./runtime.mjs";
const read = async (name) => new Uint8Array(await readFile(name));
const classifier = await Classifier.load(await runtime(read), read);
console.log(JSON.stringify(await measure(classifier, await read("pixels.bin"))));
"""
    + MEASURE
)
PAGE = """
(async () => {
  const { Classifier } = await import("./classifier.mjs");
  const { runtime } = await import("./runtime.mjs");
  const read = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
  const classifier = await Classifier.load(await runtime(read), read);
  return await measure(classifier, await read("pixels.bin"));
})()
"""


def by_python(folder: Path, python: Path) -> Any:
    done = subprocess.run([python, "-c", PYTHON], cwd=folder, capture_output=True, check=True)
    return json.loads(done.stdout)


def by_node(folder: Path) -> Any:
    (folder / "measured.mjs").write_text(NODE)
    done = subprocess.run([str(shutil.which("node")), "measured.mjs"], cwd=folder, capture_output=True, check=True)
    return json.loads(done.stdout)


def by_chromium(folder: Path) -> Any:
    with site(folder) as address, browser() as page:
        page.open(address)
        page.until("document.getElementById('note')?.textContent === 'Ready.'")
        return page.value(f"{MEASURE}\n{PAGE}")


def runs(wanted: str, folder: Path) -> dict[str, Any]:
    """Answers and times of a format, by what ran it."""
    if wanted == "browser":
        with_vendor(folder)
        found = {"Node": by_node(folder)} if shutil.which("node") else {}
        return found | ({"Chromium": by_chromium(folder)} if shutil.which("chromium") else {})
    if wanted == "openvino":
        return {"OpenVINO": by_python(folder, Path(sys.executable))}
    return {"ONNX Runtime": by_python(folder, BARE)}


def pixels(folder: Path, files: list[Path]) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    how = Preprocessing(**json.loads((folder / "preprocessing.json").read_text())["image"])
    return np.stack([np.asarray(fit(decode(file.read_bytes(), how.draft), how)) for file in files])


def row(wanted: str, client: Client, files: list[Path], home: Path, model: Any) -> Any:
    """Prints what a format comes to; its answers."""
    try:
        made = client.export("measured@production", home, format_name=wanted)
    except HandfulError as refused:
        print(f"| `{wanted}` | | | | | | | {refused} |")
        return model
    folder = home / wanted
    with zipfile.ZipFile(made.path) as archive:
        archive.extractall(folder)
    shown = pixels(folder, files)
    np.save(folder / "pixels.npy", shown)
    (folder / "pixels.bin").write_bytes(shown.tobytes())
    network = sum(path.stat().st_size for path in (*folder.glob("model.onnx"), *folder.glob("model.[xb]*")))
    examples = f"{made.export.examples_max_abs_diff:.0e}" if made.export.num_examples else ""
    for name, (answers, took) in runs(wanted, folder).items():
        model = np.array(answers) if model is None else model
        flips = (np.array(answers).argmax(axis=1) != model.argmax(axis=1)).sum()
        furthest = np.abs(np.array(answers) - model).max()
        print(
            f"| `{wanted}` | {made.export.size_bytes / MEGABYTE:.1f} | {network / MEGABYTE:.1f} | "
            f"{made.export.max_abs_diff:.0e} | {examples} | {furthest:.0e} | {flips} of {len(files)} | "
            f"{min(took):.1f} ({name}) |",
            flush=True,
        )
    return model


def main(data: Path) -> None:
    home = Path(tempfile.mkdtemp(prefix="handful-bench-"))
    files = sorted((data / "val").rglob("*.jpg"))
    with Stack.on_free_ports(home / "home") as stack, Client(stack.addresses) as client:
        client.push("measured", data)
        client.train("measured").result()
        print("| format | zip, MB | network, MB | most, golden | most, examples | most, all | other classes | ms |")
        print("|---|---|---|---|---|---|---|---|")
        model = None
        for wanted in sorted(FORMATS, key=lambda name: name != DEFAULT):
            model = row(wanted, client, files, home, model)
    shutil.rmtree(home)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else ROOT.parent / "shared" / "data" / "catsdogs")
