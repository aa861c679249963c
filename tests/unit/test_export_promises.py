"""At most so many wrong, by an export: what is held back or refused where the model is served is so by its zip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from handful.bundle import error_control
from handful.bundle.error_control import Measured, min_confidence, why_not
from handful.v1.bundle_pb2 import ErrorControl
from services.trainer.exports import building
from services.trainer.exports.browser import SHIPPED
from services.trainer.exports.formats import FORMATS
from services.trainer.worker.held_out import HeldOut
from tests import whole_bundles
from tests.browsing import browser, node, site, with_vendor
from tests.unit.test_export_files import predict, unpack
from tests.whole_bundles import LABELS, Parts

PICTURES = range(whole_bundles.NUM_GOLDEN)
RATES = (1e-9, 1.234567e-5, 1e-4, 0.004999, 0.01, 0.0499, 0.05, 1 / 3, 0.2, 0.999)
IN_NODE = """
import { readFileSync } from "node:fs";
import { minConfidence, share } from "%s";
const { known, rates, shares } = JSON.parse(readFileSync(0));
const tried = (work) => { try { return work(); } catch (problem) { return problem.message; } };
const found = known.map((measured) => rates.map((rate) => tried(() => minConfidence({ measured, refusal: "" }, rate))));
console.log(JSON.stringify([found, shares.map((text) => tried(() => share(text)))]));
"""


def promising(control: ErrorControl | None) -> Parts:
    parts = whole_bundles.make()
    if control is not None:
        parts.model.error_control.CopyFrom(control)
    return parts.written()


def files(wanted: str, control: ErrorControl | None) -> dict[str, bytes]:
    return building.make(promising(control).bundle, FORMATS[wanted])[0]


def scores() -> list[float]:
    """The best class's of each golden picture, as they are stored."""
    rows = load(whole_bundles.make().files["golden.safetensors"])["probabilities"]
    return [float(row.max()) for row in rows]


def control_between() -> ErrorControl:
    """For 10 % the least sure golden picture is held back; for 5 % all of them are, and for 20 % none."""
    least, next_one = sorted(scores())[:2]
    return ErrorControl(num_groups=19, min_confidences=[1, (least + next_one) / 2, 0], errors=[0, 1, 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, unpacked, with the golden pictures beside it."""
    unpacked = unpack(files("onnx", control_between()), tmp_path_factory.mktemp("wary"))
    for number in PICTURES:
        (unpacked / f"{number}.jpg").write_bytes(whole_bundles.picture(number))
    return unpacked


def asked(folder: Path, *arguments: object) -> list[dict[str, Any]]:
    done = predict(folder, "--json", *arguments, *(folder / f"{number}.jpg" for number in PICTURES))
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_is_not_sure_enough_is_unsure(folder: Path) -> None:
    """The fewer may be wrong the more is held back; its classes are told as ever, and nothing is unless asked."""
    least = int(np.argmin(scores()))
    expected = {"5%": [True] * 3, "0.1": [one == least for one in PICTURES], "20%": [False] * 3}
    plain = asked(folder)
    assert [one["unsure"] for one in plain] == [False] * 3
    for rate, unsure in expected.items():
        answers = asked(folder, "--max-wrong", rate)
        assert [one["unsure"] for one in answers] == unsure
        assert [one["predictions"] for one in answers] == [one["predictions"] for one in plain]
    line = predict(folder, "--max-wrong", "10%", folder / f"{least}.jpg").stdout
    assert f"{least}.jpg: unsure; of the classes most like: " in line


def test_a_zip_carries_the_code_that_serves(folder: Path) -> None:
    """Handful's own file says what is held back, by the numbers of the manifest, to the bit."""
    assert (folder / "error_control.py").read_bytes() == Path(error_control.__file__).read_bytes()
    told = json.loads((folder / "error_control.json").read_text())
    known = control_between()
    assert Measured(**told["measured"]) == Measured(known.num_groups, list(known.min_confidences), list(known.errors))
    text = (folder / "README.md").read_text()
    assert "of all that is asked, the unsure included, at most 5 % is answered and wrong" in text
    assert "19 groups of pictures, so less than 1 in 20 is refused" in text


@pytest.mark.parametrize(("num", "rate"), [(1, "50"), (10, "9.1"), (18, "5.3"), (59, "5")])
def test_the_card_asks_for_what_is_promised(tmp_path: Path, num: int, rate: str) -> None:
    """Its own command is taken, and so is the least share that it tells, and no less; 5 % where so few can be."""
    control = ErrorControl(num_groups=num, min_confidences=[0.5, 0], errors=[0, 1])
    unpacked = unpack(files("onnx", control), tmp_path)
    (tmp_path / "0.jpg").write_bytes(whole_bundles.picture(0))
    text = (unpacked / "README.md").read_text()
    assert f"`python predict.py --max-wrong {rate}% FILE` says" in text
    assert f"at most {rate} % is answered and wrong" in text
    assert f"from {num} groups of pictures, so less than 1 in {num + 1} is refused" in text
    codes = {rate + "%": 0, str(1 / (num + 1)): 0, str(0.999 / (num + 1)): 2}
    assert {share: predict(unpacked, "--max-wrong", share, tmp_path / "0.jpg").returncode for share in codes} == codes


@pytest.mark.parametrize("control", [ErrorControl(num_groups=19, min_confidences=[0.9, 0], errors=[0, 1]), None])
def test_what_cannot_be_promised_is_refused(tmp_path: Path, control: ErrorControl | None) -> None:
    """In the words of the server, before anything is asked, with exit code 2."""
    unpacked = unpack(files("onnx", control), tmp_path)
    done = predict(unpacked, "--max-wrong", "1%", tmp_path / "none.jpg")
    told = f"--max-wrong: 0.01 cannot be promised by this export: {why_not(control, 0.01)}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)
    assert ("That is not promised" in (unpacked / "README.md").read_text()) == (control is None)


@pytest.mark.parametrize("wanted", ["onnx-fp16", "onnx-int8"])
def test_fewer_bits_promise_nothing(tmp_path: Path, wanted: str) -> None:
    """Their answers are not those that were measured: script and card say so, and the script predicts as ever."""
    unpacked = unpack(files(wanted, control_between()), tmp_path)
    (tmp_path / "0.jpg").write_bytes(whole_bundles.picture(0))
    done = predict(unpacked, "--max-wrong", "10%", tmp_path / "0.jpg")
    assert (done.returncode, done.stdout) == (2, "")
    assert FORMATS[wanted].promise_refusal in done.stderr
    assert FORMATS[wanted].promise_refusal in (unpacked / "README.md").read_text()
    assert predict(unpacked, tmp_path / "0.jpg").returncode == 0


@pytest.mark.parametrize("share", ["few", "5", "0", "nan"])
def test_a_share_that_is_none_is_answered_with_one(folder: Path, share: str) -> None:
    """As at the command line of Handful."""
    done = predict(folder, "--max-wrong", share, folder / "0.jpg")
    assert done.returncode == 2
    assert done.stderr.endswith("argument --max-wrong: write a share between 0% and 100%, such as 5% or 0.05\n")


def drawn(seed: int) -> Measured:
    """Of as many examples as there are for it, some answered wrongly."""
    random = np.random.default_rng(seed)
    num = int(random.integers(1, 400))
    probabilities = random.dirichlet([4, 1, 1], (1, num)).astype(np.float32)
    labels, groups = random.integers(0, 2, num), random.integers(0, num, num)
    known = HeldOut(probabilities, labels, groups).error_control()
    assert known is not None
    return Measured(known.num_groups, list(known.min_confidences), list(known.errors))


def test_javascript_reckons_as_python() -> None:
    """The same confidences, refusals and shares, to the bit and to the word."""
    measured = [None, *map(drawn, range(40))]
    shares = ["5%", "0.05", "0.3%", "few", "5", "0", "100%", "-1%", "%", ""]
    given = {"known": [one and one._asdict() for one in measured], "rates": RATES, "shares": shares}
    script = IN_NODE % (SHIPPED / "error_control.mjs").as_uri()
    found, told = json.loads(node("--input-type=module", "-e", script, data=json.dumps(given).encode()))
    for known, answers in zip(measured, found, strict=True):
        for rate, answer in zip(RATES, answers, strict=True):
            confidence = None if known is None else min_confidence(known, rate)
            refusal = f"{rate:g} cannot be promised by this export: {why_not(known, rate)}"
            assert answer == (refusal if confidence is None else confidence)
    assert len({type(one) for answers in found for one in answers}) > 1
    assert told == [
        *map(error_control.share, shares[:3]),
        *["write a share between 0% and 100%, such as 5% or 0.05"] * 7,
    ]


def test_the_script_for_node_refuses_as_the_others(tmp_path: Path) -> None:
    """In one line, before it loads the model."""
    unpacked = unpack(files("browser", control_between()), tmp_path)
    with pytest.raises(AssertionError, match=r"^--max-wrong: 0.01 cannot be promised by this export: it takes 99 "):
        node("predict.mjs", "--max-wrong", "1%", "none.jpg", cwd=unpacked)
    with pytest.raises(AssertionError, match=r"^--max-wrong: write a share between 0% and 100%"):
        node("predict.mjs", "--max-wrong", "few", "none.jpg", cwd=unpacked)


def test_the_page_says_where_it_is_unsure(tmp_path: Path) -> None:
    """What is chosen counts at once, for the camera's last moment too after it was stopped; what so few examples cannot
    promise is not to be chosen.
    """
    unpacked = with_vendor(unpack(files("browser", control_between()), tmp_path / "page"))
    (unpacked / "neighbours.bin").write_bytes(b"")  # nothing is unknown, whatever the camera sees
    (tmp_path / "a.png").write_bytes(whole_bundles.picture(0, "PNG"))
    choose = "document.getElementById('wrong').value = '{}'; document.getElementById('wrong').onchange(); 0"
    note = "document.getElementById('note')?.textContent === '{}'"
    with site(unpacked) as address, browser("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1") as page:
        page.open(address)
        page.until(note.format("Ready."))
        offered = "[...document.getElementById('wrong').options].map((one) => [one.value, one.disabled])"
        assert page.value(offered) == [["", False], [".1", False], [".05", False], [".01", True]]
        page.choose("#file", tmp_path / "a.png")
        page.until(f"document.querySelectorAll('#classes li').length === {len(LABELS)}")
        assert page.value(note.format(""))
        page.value(choose.format(".05"))
        page.until(note.format("It is unsure."))
        page.value(choose.format(""))
        page.until(note.format(""))
        page.value("document.getElementById('classes').replaceChildren(); document.getElementById('camera').click()")
        page.until(f"document.querySelectorAll('#classes li').length === {len(LABELS)}")
        page.value("document.getElementById('camera').click()")
        page.until("document.getElementById('camera').textContent === 'Use the camera'")
        page.value(choose.format(".05"))
        page.until(note.format("It is unsure."))
