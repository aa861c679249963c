"""The page for browsers and the script for Node: the pixels that Pillow makes, the answers that are stored."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from handful.bundle.images import Preprocessing, fit
from services.trainer.exports import building
from services.trainer.exports.browser import SHIPPED
from services.trainer.exports.formats import FORMATS
from tests import whole_bundles
from tests.browsing import browser, node, site, with_sharp, with_vendor
from tests.whole_bundles import LABELS

FIT = """
import { readFileSync, writeFileSync } from "node:fs";
import { fit } from "%s";
const { width, height, how } = JSON.parse(process.argv[1]);
process.stdout.write(fit({ data: readFileSync(0), width, height }, how));
"""
WAYS = [
    Preprocessing("center_crop", 32, "bilinear", resize=37),
    Preprocessing("center_crop", 48, "bicubic", resize=48),
    Preprocessing("squash", 24, "bilinear"),
    Preprocessing("squash", 40, "bicubic"),
]


@pytest.mark.parametrize("how", WAYS, ids=lambda how: f"{how.fit} {how.filter}")
@pytest.mark.parametrize(("size", "levels"), [((300, 211), 0), ((20, 17), 0), ((48, 48), 0), ((64, 91), 1)])
def test_pixels_are_those_of_pillow(how: Preprocessing, size: tuple[int, int], levels: int) -> None:
    """Larger or smaller, cut or squashed, by either filter: every level of every pixel is the same; of what is higher
    than wide, which Pillow may take by columns first, nearly.
    """
    noise = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    if levels:
        picture = picture.filter(ImageFilter.GaussianBlur(2))
    told = json.dumps({"width": size[0], "height": size[1], "how": vars(how)})
    script = FIT % (SHIPPED / "pixels.mjs").as_uri()
    found = node("--input-type=module", "-e", script, told, data=picture.convert("RGBA").tobytes())
    expected = np.asarray(fit(picture, how)).ravel().astype(int)
    assert np.abs(np.frombuffer(found, np.uint8) - expected).max() <= levels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the model that knows colours, with ONNX Runtime Web beside it."""
    unpacked = tmp_path_factory.mktemp("browser")
    for name, data in building.make(whole_bundles.make().bundle, FORMATS["browser"])[0].items():
        (unpacked / name).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / name).write_bytes(data)
    return with_vendor(unpacked)


def right(report: dict[str, Any]) -> None:
    assert (report["self_test"], report["golden"]) == ("passed", whole_bundles.NUM_GOLDEN), report
    assert report["max_abs_diff"] <= FORMATS["browser"].max_abs_diff


def test_node_answers_as_stored(folder: Path) -> None:
    """The script's self-test passes; with another head it fails."""
    right(json.loads(node("predict.mjs", "--self-test", cwd=folder)))


def test_node_18_answers_as_stored(folder: Path, tmp_path: Path) -> None:
    """It has no `crypto` that every module sees."""
    (tmp_path / "as_18.cjs").write_text("delete globalThis.crypto;")
    right(json.loads(node("--require", tmp_path / "as_18.cjs", "predict.mjs", "--self-test", cwd=folder)))


def test_node_says_what_pictures_show(folder: Path, tmp_path: Path) -> None:
    """A JPEG, and a PNG that is turned and partly clear, get the classes that they have; what is no picture gets a
    line, and exit code 1.
    """
    shutil.copytree(folder, tmp_path / "with")
    where = with_sharp(tmp_path / "with")
    (where / "some.jpg").write_bytes(whole_bundles.picture(0))
    turned = Image.open(io.BytesIO(whole_bundles.picture(0))).convert("RGBA")
    turned.putalpha(254)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(where / "some.png", exif=exif)
    (where / "none.jpg").write_bytes(b"no picture")
    answers = [json.loads(line) for line in node("predict.mjs", "some.jpg", "some.png", cwd=where).splitlines()]
    stored = dict(zip(LABELS, json.loads((where / "golden.json").read_text())["probabilities"][0], strict=True))
    for answer in answers:
        found = {one["label"]: one["score"] for one in answer["predictions"]}
        assert found == pytest.approx(stored, abs=0.01)
    with pytest.raises(AssertionError, match=r"^none.jpg: [^\n]+\n"):
        node("predict.mjs", "none.jpg", "some.jpg", cwd=where)


def test_node_without_what_it_needs_says_so(folder: Path, tmp_path: Path) -> None:
    """In a line: what opens pictures, what runs the network where nobody can be asked for it, what to ask about."""
    with pytest.raises(AssertionError, match=r"^give pictures, or --self-test\n"):
        node("predict.mjs", cwd=folder)
    with pytest.raises(AssertionError, match=r"^npm install sharp@0.34, which opens the files: "):
        node("predict.mjs", "some.jpg", cwd=folder)
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("vendor"))
    told = json.loads((bare / "runtime.json").read_text())
    (bare / "runtime.json").write_text(json.dumps({**told, "base": "http://127.0.0.1:1/"}))
    with pytest.raises(AssertionError, match=r"^there is no vendor/[^\n]+ cannot be had: [^\n]+\n"):
        node("predict.mjs", "--self-test", cwd=bare)


def test_what_is_not_the_runtime_is_not_run(folder: Path, tmp_path: Path) -> None:
    """A changed file of ONNX Runtime is refused by its hash."""
    shutil.copytree(folder, tmp_path / "changed")
    with next((tmp_path / "changed" / "vendor").glob("*.mjs")).open("a") as script:
        script.write("\nconsole.log('run');\n")
    with pytest.raises(AssertionError, match="is not the file that was asked for"):
        node("predict.mjs", "--self-test", cwd=tmp_path / "changed")


def test_a_browser_answers_as_stored(folder: Path, tmp_path: Path) -> None:
    """In Chromium the self-test passes, a chosen file and the camera get their classes, and nobody else is asked."""
    (tmp_path / "red.png").write_bytes(whole_bundles.picture(0, "PNG"))
    with site(folder) as address, browser("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1") as page:
        page.open(address)
        page.until("document.getElementById('note')?.textContent === 'Ready.'")
        report = page.value("import('./page.mjs').then((page) => page.selfTest())")
        right(report)
        assert report["max_pixel_diff"] <= 4
        page.choose("#file", tmp_path / "red.png")
        page.until(f"document.querySelectorAll('#classes li').length === {len(LABELS)}")
        shown = page.value("[...document.querySelectorAll('#classes li')].map((row) => row.firstChild.textContent)")
        assert sorted(shown) == sorted(LABELS)
        page.value("document.getElementById('classes').replaceChildren(); document.getElementById('camera').click()")
        page.until(f"document.querySelectorAll('#classes li').length === {len(LABELS)}")
        assert page.value("document.getElementById('camera').textContent") == "Stop"
        addresses = page.value("performance.getEntriesByType('resource').map((one) => new URL(one.name).origin)")
        assert set(addresses) <= {address.rstrip("/"), "null"}
        assert page.picture().startswith(b"\x89PNG")
