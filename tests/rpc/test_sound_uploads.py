"""Sounds over the wire: a verdict for every item, pieces of long recordings in one group, one modality in a dataset."""

import io
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from handful.bundle.manifest import blob_key, dataset_manifest_key, from_bytes
from handful.v1 import bundle_pb2, dataset_pb2
from handful.v1.bundle_pb2 import SPLIT_TRAIN, SPLIT_VAL, DatasetManifest
from handful.v1.dataset_pb2 import UploadExamplesRequest as Step
from handful.v1.dataset_pb2 import UploadExamplesResponse as Verdict
from services.shared.objects.filesystem import FilesystemStore
from tests.rpc.test_uploads import upload
from tests.servers import DatasetService
from tests.unit.test_recordings import HOSTILE, file, tone

pytestmark = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)


def hiss(seconds: float, seed: int, rate: int = 8000) -> bytes:
    return file(np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate)), rate)


async def create(service: DatasetService, dataset: str = "voices") -> str:
    """The name of a new dataset of sounds."""
    request = dataset_pb2.CreateDatasetRequest(
        parent="projects/default", dataset_id=dataset, modality=bundle_pb2.MODALITY_SOUND
    )
    return (await service.stub.CreateDataset(request)).dataset.name


async def sealed(service: DatasetService, store: FilesystemStore, dataset: str) -> DatasetManifest:
    request = dataset_pb2.CreateDatasetVersionRequest(parent=dataset)
    version = (await service.stub.CreateDatasetVersion(request)).dataset_version
    assert version.modality == bundle_pb2.MODALITY_SOUND
    key = dataset_manifest_key("default", version.manifest_sha256)
    return from_bytes(DatasetManifest, store.get(key, version.manifest_sha256))


async def test_hostile_sounds_get_verdicts_and_the_stream_goes_on(
    dataset_service: DatasetService, store: FilesystemStore
) -> None:
    """Between good files, every hostile one is refused with its reason and a hint, in order, and leaves nothing."""
    dataset = await create(dataset_service)
    items = []
    for number, (case, (make, _)) in enumerate(HOSTILE.items()):
        items.append((Step.Begin(client_ref=case, label="x", filename="a.wav"), make()))
        items.append((Step.Begin(label="x"), hiss(0.5, number)))
    verdicts = await upload(dataset_service, dataset, *items)
    assert all(verdict.HasField("stored") for verdict in verdicts[1::2])
    refused = [verdict.rejected for verdict in verdicts[::2]]
    assert all(one.message and one.hint for one in refused)
    given = [Verdict.Reason.Name(one.reason).removeprefix("REASON_") for one in refused]
    assert given == [reason for _, reason in HOSTILE.values()]
    assert len(list(store.keys("projects/"))) == len(HOSTILE)


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "FLOAT"), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None)])
async def test_a_sound_is_kept_in_one_channel_without_a_word(
    dataset_service: DatasetService, store: FilesystemStore, kind: str, subtype: str | None
) -> None:
    """Stored bytes are FLAC of one channel at the rate of the file, without tags, and sound as what was sent."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 44_100, 2, subtype, format=kind) as sent:
        sent.title = "CANARY"
        sent.write(tone(2.0, 44_100, 2))
    (verdict,) = await upload(
        dataset_service, await create(dataset_service), (Step.Begin(label="x"), buffer.getvalue())
    )
    example = verdict.stored.example
    assert (example.media_type, example.sample_rate, example.width) == ("audio/flac", 44_100, 0)
    assert example.duration_seconds == pytest.approx(2.0, abs=0.06)
    blob = store.get(blob_key("default", example.content_sha256), example.content_sha256)
    assert b"CANARY" not in blob
    samples, rate = soundfile.read(io.BytesIO(blob))
    assert (rate, samples.ndim) == (44_100, 1)
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.03)


async def test_high_rates_are_kept_lower(dataset_service: DatasetService) -> None:
    """Nothing above 48 kHz is kept."""
    (verdict,) = await upload(
        dataset_service, await create(dataset_service), (Step.Begin(label="x"), file(tone(rate=96_000), 96_000))
    )
    assert (verdict.stored.example.sample_rate, verdict.stored.example.duration_seconds) == (48_000, 1.0)


async def test_a_long_recording_is_cut_and_its_pieces_stay_together(
    dataset_service: DatasetService, store: FilesystemStore
) -> None:
    """25 s become five pieces, of which the silent one is left out; their group is one, in the manifest too."""
    dataset = await create(dataset_service)
    long = np.random.default_rng(0).normal(0, 0.1, 25 * 8000)
    long[8 * 8000 : 16 * 8000] = 0
    items = [(Step.Begin(label="x"), file(long, 8000))]
    items += [(Step.Begin(label=label), hiss(1, seed + 10 * (label == "y"))) for label in "xy" for seed in range(5)]
    first, *_ = await upload(dataset_service, dataset, *items)
    pieces = first.stored.pieces
    assert [round(one.duration_seconds, 2) for one in pieces] == [5.0] * 4
    assert first.stored.example == pieces[0]
    assert {one.group for one in pieces} == {pieces[0].upload_sha256}
    (again,) = await upload(dataset_service, dataset, items[0])
    assert again.stored.already_stored
    assert list(again.stored.pieces) == list(pieces)
    manifest = await sealed(dataset_service, store, dataset)
    mine = [one for one in manifest.examples if one.content_sha256 in {piece.content_sha256 for piece in pieces}]
    assert (len(mine), len({one.group for one in mine}), len({one.split for one in mine})) == (4, 1, 1)
    assert mine[0].group == min(one.content_sha256 for one in mine)


async def test_a_speaker_stands_in_one_split(dataset_service: DatasetService, store: FilesystemStore) -> None:
    """Examples of one group train or validate, all of them, whatever their classes are."""
    dataset = await create(dataset_service)
    items = [
        (Step.Begin(label=label, group=speaker), hiss(0.3, 100 * place + 10 * number + (label == "no")))
        for place, speaker in enumerate(("ann", "bob", "cem", "dee", "eve"))
        for number in range(4)
        for label in ("yes", "no")
    ]
    verdicts = await upload(dataset_service, dataset, *items)
    speaker_of = {one.stored.example.content_sha256: one.stored.example.group for one in verdicts}
    manifest = await sealed(dataset_service, store, dataset)
    splits = {(speaker_of[one.content_sha256], one.split) for one in manifest.examples}
    assert sorted(split for _, split in splits) == [SPLIT_TRAIN] * 4 + [SPLIT_VAL]
    assert len({one.group for one in manifest.examples}) == 5


async def test_groups_that_are_said_later_count(dataset_service: DatasetService, store: FilesystemStore) -> None:
    """What was pushed without groups joins those it is pushed with again, pieces of long recordings among it."""
    dataset = await create(dataset_service)
    files = [hiss(0.3, 0), hiss(14, 1), hiss(0.3, 2)]
    await upload(dataset_service, dataset, *((Step.Begin(label="yes"), one) for one in files))
    await upload(dataset_service, dataset, *((Step.Begin(label="no"), hiss(0.3, seed)) for seed in range(10, 15)))
    again = await upload(dataset_service, dataset, *((Step.Begin(label="yes", group="ann"), one) for one in files[:2]))
    assert all(one.stored.already_stored for one in again)
    assert {one.stored.example.group for one in again} == {"ann"}
    assert [one.group for one in again[1].stored.pieces] == ["ann"] * 3
    manifest = await sealed(dataset_service, store, dataset)
    assert Counter(one.group for one in manifest.examples if one.group).most_common(1)[0][1] == 4
    (kept,) = await upload(dataset_service, dataset, (Step.Begin(label="yes"), files[0]))
    assert kept.stored.example.group == "ann"


async def test_another_group_is_refused(dataset_service: DatasetService) -> None:
    """Of the same bytes and of the same sound in another file, which is in a group already; nothing changes."""
    dataset = await create(dataset_service)
    noise = np.random.default_rng(0).integers(-3000, 3000, 14 * 8000).astype(np.int16)
    (first,) = await upload(dataset_service, dataset, (Step.Begin(label="yes", group="ann"), file(noise, 8000)))
    for data in (file(noise, 8000), file(noise, 8000, "FLAC")):
        (verdict,) = await upload(dataset_service, dataset, (Step.Begin(label="yes", group="bob"), data))
        assert verdict.rejected.reason == Verdict.REASON_OTHER_GROUP
        assert "in the group 'ann'" in verdict.rejected.message
        assert verdict.rejected.hint
        (kept,) = await upload(dataset_service, dataset, (Step.Begin(label="yes", group="ann"), data))
        assert kept.stored.already_stored
        assert kept.stored.pieces == first.stored.pieces


async def test_a_dataset_holds_one_modality(dataset_service: DatasetService, picture: Callable[..., bytes]) -> None:
    """A picture among sounds and a sound among pictures are refused with words that say so."""
    sounds = await create(dataset_service)
    request = dataset_pb2.CreateDatasetRequest(parent="projects/default", dataset_id="pictures")
    pictures = (await dataset_service.stub.CreateDataset(request)).dataset.name
    for dataset, data, says in (
        (sounds, picture(), "The file is a picture, and the dataset holds sounds."),
        (pictures, hiss(1, 0), "The file is a sound, and the dataset holds pictures."),
    ):
        (verdict,) = await upload(dataset_service, dataset, (Step.Begin(label="x"), data))
        assert verdict.rejected.reason == Verdict.REASON_UNSUPPORTED_FORMAT
        assert verdict.rejected.message == says
