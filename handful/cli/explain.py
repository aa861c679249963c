"""`handful explain MODEL FILE`: what a model looked at, drawn over the picture or sound, and what it is most like."""

import argparse
from pathlib import Path

from rich.markup import escape

from handful import Client
from handful.cli.commands import console, short
from handful.errors import HandfulError
from handful.v1.inference_pb2 import EvidenceMap, ExplainResponse

SHOWN = 3


def run(given: argparse.Namespace) -> int:
    with Client.from_env() as client:
        answer = client.explain(given.model, given.file, given.label)
        out: Path = given.out or Path(f"{given.file.stem}-{answer.label}.png".replace("/", "_"))
        out.write_bytes(answer.evidence.png)
        known = _files(client, answer)
    for line in (*_said(given.file, answer, known), f"{out} shows what it looked at: {_legend(answer)}"):
        console.print(escape(line), soft_wrap=True)
    return 0


def _said(file: Path, answer: ExplainResponse, known: dict[str, str]) -> list[str]:
    scores = "  ".join(f"{one.label} {one.score:.3f}" for one in answer.predictions[:SHOWN])
    unknown = "unknown; of the classes most like: " if answer.unknown else ""
    nearest = ", ".join(
        f"{known.get(one.content_sha256, one.content_sha256[:8])} ({one.label}, {one.distance:.2f})"
        for one in answer.nearest_examples
    )
    lines = [f"{file}: {unknown}{scores}  ({short(answer.model_version)})"]
    return [*lines, f"Nearest training examples, and how far: {nearest}."] if nearest else lines


def _legend(answer: ExplainResponse) -> str:
    colours = f"orange speaks for {answer.label}, blue against it."
    evidence = answer.evidence
    if evidence.band_hertz:
        seconds = f"{evidence.start_seconds:.1f} to {evidence.end_seconds:.1f} s"
        return f"{colours} Time to the right, {seconds}; high tones above, up to {evidence.band_hertz[-1]:.0f} Hz."
    exact = evidence.method == EvidenceMap.METHOD_CLASS_ACTIVATION
    return colours if exact else f"{colours} Each place was covered in turn."


def _files(client: Client, answer: ExplainResponse) -> dict[str, str]:
    """By content, the files that the nearest examples came from; of sounds, and of what was imported, none."""
    contents = [one.content_sha256 for one in answer.nearest_examples]
    if not contents:
        return {}
    model = answer.model_version.partition("/versions/")[0]
    try:
        version = next((one for one in client.model_versions(model) if one.name == answer.model_version), None)
        if version is None or not version.training_run:  # it was imported
            return {}
        dataset = client.run(version.training_run).training_run.dataset_version.partition("/versions/")[0]
        return {content: one.filename for content, one in client.thumbnails(dataset, contents).items()}
    except HandfulError as problem:  # the answer is here, whoever else is away
        console.print(escape(f"What the nearest examples' files are called is not known: {problem.message}"))
        return {}
