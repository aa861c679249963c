"""How long the drawn graph of an EfficientNet-Lite takes for a picture, against the one that torch exports, and how
long each takes to be built. Prints the shortest of many alternating calls, and the largest difference of a feature.

usage: lite_graphs.py
"""

import time
from collections.abc import Callable

import numpy as np

from handful.bundle.predictor import Backbone
from services.trainer.architectures import ARCHITECTURES, ArchitectureRow
from services.trainer.worker import agreement, efficientnet_lite, graphs
from services.trainer.worker.architectures import build
from services.trainer.worker.pretrained import offered
from services.trainer.worker.pretrained.torch_files import read

CALLS = 40


def timed(make: Callable[[], bytes]) -> tuple[bytes, float]:
    """What is made, and the seconds that it took."""
    started = time.perf_counter()
    return make(), time.perf_counter() - started


def quickest(one: Backbone, other: Backbone, row: ArchitectureRow) -> list[float]:
    """Seconds of the quickest call of each; what else the machine does disturbs both alike."""
    pixels, seconds = agreement.sample(row.preprocessing.size)[:1], [np.inf, np.inf]
    for _ in range(CALLS):
        for place, backbone in enumerate((one, other)):
            started = time.perf_counter()
            backbone.features(pixels)
            seconds[place] = min(seconds[place], time.perf_counter() - started)
    return seconds


def line(row: ArchitectureRow) -> str:
    file = offered(row).locate()
    if file is None:
        return f"{row.id:20} the package with its weights is not here"
    arrays = read(file.read_bytes())
    drawn, drawing = timed(lambda: efficientnet_lite.graph(efficientnet_lite.state(row.network.name, arrays), row))
    exported, exporting = timed(lambda: graphs.export(build(row.network, arrays), row))
    ours, theirs = Backbone(drawn), Backbone(exported)
    mine, other = quickest(ours, theirs, row)
    compared = agreement.sample(row.preprocessing.size)
    difference = np.abs(ours.features(compared) - theirs.features(compared)).max()
    built = f"{drawing:8.2f} {exporting:8.1f}"
    return f"{row.id:20} {mine * 1e3:8.1f} {other * 1e3:8.1f} {other / mine:6.2f} {built} {difference:12.1e}"


def main() -> None:
    print(f"{'':20} ms drawn exported  ratio s drawn exported   difference")
    for row in ARCHITECTURES.values():
        if row.network.name in efficientnet_lite.BLOCKS:
            print(line(row), flush=True)


if __name__ == "__main__":
    main()
