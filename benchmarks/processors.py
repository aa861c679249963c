"""Whether a backbone's features are the same on other processors: its graphs, in float32 and in integers, run here and
under QEMU's emulation of one without AVX and of one with AVX2 alone. It takes some minutes.

usage: processors.py [FOLDER] [--pictures N]   (default: ../shared/data/catsdogs, 6; needs Debian's qemu-user-static)
"""

import argparse
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np

from handful.bundle.heads import Floats
from handful.bundle.predictor import to_pixels
from handful.folders import find
from services.trainer import quantizing
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from tests import real_bundles

EMULATOR = "qemu-x86_64-static"
PROCESSORS = {"no AVX": "Nehalem", "AVX2": "max"}
ROOT = Path(__file__).parents[1]
FEATURES = """
import sys
sys.path[:0] = {paths}
import numpy as np
from handful.bundle.heads import Floats
from handful.bundle.predictor import Backbone
graph, pixels, features = {files}
body = Backbone(open(graph, "rb").read())
np.save(features, np.concatenate([body.features(one[None]) for one in np.load(pixels)]))
"""


def features(graph: Path, pixels: Path, emulator: list[str]) -> Floats:
    """By a process of its own, which no settings of this one follow."""
    written = graph.with_suffix(".npy")
    paths, files = [str(ROOT), sysconfig.get_paths()["purelib"]], [str(one) for one in (graph, pixels, written)]
    program = str(Path(sys.executable).resolve())
    code = FEATURES.format(paths=paths, files=files)
    subprocess.run([*emulator, program, "-c", code], check=True, env={"OPENBLAS_NUM_THREADS": "1"})
    found: Floats = np.load(written)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=Path("../shared/data/catsdogs"))
    parser.add_argument("--pictures", type=int, default=6)
    given = parser.parse_args()
    how = ARCHITECTURES[DEFAULT_ARCHITECTURE].preprocessing
    files = find(given.folder)
    shown = [to_pixels(file.path.read_bytes(), how) for file in files[:: len(files) // given.pictures]]
    body = real_bundles.graph()
    with tempfile.TemporaryDirectory(prefix="handful-bench-") as folder:
        pixels = Path(folder) / "pixels.npy"
        np.save(pixels, np.stack(shown[: given.pictures]))
        for precision, graph in (("FLOAT32", body), ("INT8", quantizing.quantize(body))):
            path = Path(folder) / f"{precision}.onnx"
            path.write_bytes(graph)
            here = features(path, pixels, [])
            for name, model in PROCESSORS.items():
                there = features(path, pixels, [EMULATOR, "-cpu", model])
                furthest = np.abs(here - there).max() / np.abs(here).max()
                print(
                    f"{precision:7} {name:7} furthest {furthest:.1e} of the largest; equal {(here == there).mean():.1%}"
                )


if __name__ == "__main__":
    main()
