"""What `quality` and `fine_tune` with their defaults are worth beside `fast`: accuracy on pictures not trained
on, and seconds from a worker's claim to SUCCEEDED.

usage: presets.py [FOLDER] [--draws N] [--fields "NAME=VALUE ..."]
       (default: ../shared/data/catsdogs, 3; train/ and val/ of class folders)

Trains on all of train/ with N seeds, and on 15 pictures per class drawn from it N times, the same for each preset, and
measures on val/. `--fields` adds `fine_tune` with those. `fast` and `quality` need seconds, `fine_tune` with defaults
many minutes on a CPU.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.baseline import FEW, drawn, fresh, train


def line(which: str, found: dict[str, list[tuple[float, float]]]) -> None:
    """Means, and how far the others are ahead of `fast` on the same pictures."""
    fast = [accuracy for accuracy, _ in found["fast"]]
    for name, values in found.items():
        accuracies, seconds = zip(*values, strict=True)
        ahead = np.array(accuracies) - fast
        error = ahead.std(ddof=1) / np.sqrt(len(ahead)) if len(ahead) > 1 else float("nan")
        print(
            f"{which} {name:40} {np.mean(accuracies):.3f}  against fast {ahead.mean():+.3f} ± {error:.3f}  "
            f"{np.median(seconds):7.1f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=Path("../shared/data/catsdogs"))
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--fields", action="append", default=[])
    given = parser.parse_args()
    recipes = {preset: {"preset": preset} for preset in ("fast", "quality", "fine_tune")}
    for fields in given.fields:
        recipes[f"fine_tune {fields}"] = {"preset": "fine_tune", **dict(one.split("=") for one in fields.split())}
    place = Path(tempfile.mkdtemp(prefix="handful-bench-"))
    for which, few in ((f"{FEW} per class", True), ("all of train/", False)):
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in recipes}
        for draw in range(given.draws):
            folder = drawn(given.folder, place / f"draw{draw}", draw) if few else given.folder
            with fresh(place / "home", ("photos", folder)) as client:
                for name, fields in recipes.items():
                    found[name].append(train(client, "photos", seed=draw, **fields)[:2])
                    print(f"  {which}, draw {draw}, {name}: {found[name][-1][0]:.3f}", flush=True)
        line(which, found)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
