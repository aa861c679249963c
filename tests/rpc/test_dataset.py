"""The dataset service over the wire: create, seal, read, in pages and with every kind of wrong request."""

import asyncio
import base64
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handful import Client, errors
from handful.bundle.manifest import blob_key, dataset_manifest_key
from handful.channel import Addresses
from handful.v1 import bundle_pb2, dataset_pb2
from handful.v1.bundle_pb2 import SPLIT_TRAIN, SPLIT_UNSPECIFIED, SPLIT_VAL
from handful.v1.dataset_pb2 import UploadExamplesRequest as Step
from services.shared.objects.filesystem import FilesystemStore
from tests.playing_worker import refusal
from tests.rpc.test_uploads import Item, create, upload
from tests.servers import Databases, DatasetService, execute

NAME = "projects/default/datasets/flowers"
VERSION = f"{NAME}/versions/1"
# Of two labels, which pictures are said to belong to which split.
LATER = [(range(15), range(20, 35), SPLIT_TRAIN), (range(15, 20), range(35, 40), SPLIT_VAL)]


@pytest.fixture
def labelled(picture: Callable[..., bytes]) -> Callable[..., list[Item]]:
    """Makes items of a label, a different picture for every seed."""

    def make(label: str, seeds: Sequence[int], split: "bundle_pb2.Split.ValueType" = SPLIT_UNSPECIFIED) -> list[Item]:
        return [(Step.Begin(label=label, split=split, filename=f"{seed}.jpg"), picture(seed)) for seed in seeds]

    return make


@pytest.fixture
async def flowers(dataset_service: DatasetService, labelled: Callable[..., list[Item]]) -> str:
    """The name of a dataset with 10 daisies and 5 roses."""
    name = await create(dataset_service)
    await upload(dataset_service, name, *labelled("daisy", range(10)), *labelled("rose", range(10, 15)))
    return name


async def seal(service: DatasetService, name: str, **more: str) -> dataset_pb2.DatasetVersion:
    request = dataset_pb2.CreateDatasetVersionRequest(parent=name, **more)
    return (await service.stub.CreateDatasetVersion(request)).dataset_version


async def test_a_dataset_is_created_once(dataset_service: DatasetService) -> None:
    """A new dataset is empty and holds images; its id is taken then, in its own project alone."""
    name = await create(dataset_service)
    found = (await dataset_service.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=name))).dataset
    assert (found.name, found.modality, list(found.labels)) == (NAME, bundle_pb2.MODALITY_IMAGE, [])
    again = dataset_pb2.CreateDatasetRequest(parent="projects/default", dataset_id="flowers")
    assert isinstance(await refusal(dataset_service.stub.CreateDataset(again)), errors.AlreadyExists)
    assert await create(dataset_service, parent="projects/other") == "projects/other/datasets/flowers"


async def test_a_repeated_request_gets_the_first_answer(dataset_service: DatasetService, databases: Databases) -> None:
    """Equal creates under one request_id, at once and later, are one create; another body is refused; for a day."""
    request = dataset_pb2.CreateDatasetRequest(parent="projects/default", dataset_id="flowers", request_id="1")
    answers = await asyncio.gather(*(dataset_service.stub.CreateDataset(request) for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    other = dataset_pb2.CreateDatasetRequest(parent="projects/default", dataset_id="trees", request_id="1")
    assert (await refusal(dataset_service.stub.CreateDataset(other))).reason == "REQUEST_ID_REUSED"
    execute(databases.dataset, "dataset", "UPDATE requests SET create_time_us = create_time_us - 86400000000")
    assert isinstance(await refusal(dataset_service.stub.CreateDataset(request)), errors.AlreadyExists)


async def test_sealing_equal_content_gives_the_same_version(
    dataset_service: DatasetService, flowers: str, labelled: Callable[..., list[Item]], store: FilesystemStore
) -> None:
    """A version is its content: a fifth of each class validates, sealing again changes nothing, more makes another."""
    first = await seal(dataset_service, flowers)
    assert first.name == VERSION
    assert [(one.label, one.num_train, one.num_val) for one in first.classes] == [("daisy", 8, 2), ("rose", 4, 1)]
    assert await seal(dataset_service, flowers, request_id="1") == await seal(dataset_service, flowers) == first
    manifest = store.get(dataset_manifest_key("default", first.manifest_sha256), first.manifest_sha256)
    assert json.loads(manifest)["labels"] == ["daisy", "rose"]
    # Uploaded in another order, into another dataset, at another time, under other filenames.
    twin = await create(dataset_service, "twin")
    await upload(dataset_service, twin, *reversed(labelled("rose", range(10, 15)) + labelled("daisy", range(10))))
    assert (await seal(dataset_service, twin)).manifest_sha256 == first.manifest_sha256
    await upload(dataset_service, flowers, *labelled("tulip", range(20, 22)))
    second = await seal(dataset_service, flowers)
    assert (second.name, second.classes[2].label) == (f"{NAME}/versions/2", "tulip")
    assert second.manifest_sha256 != first.manifest_sha256
    read = await dataset_service.stub.GetDatasetVersion(dataset_pb2.GetDatasetVersionRequest(name=VERSION))
    assert read.dataset_version == first


async def test_uploaded_splits_are_kept(dataset_service: DatasetService, labelled: Callable[..., list[Item]]) -> None:
    """Where examples were uploaded for validation, exactly those validate, and the notices say what follows."""
    name = await create(dataset_service)
    await upload(
        dataset_service,
        name,
        *labelled("a", range(4), SPLIT_TRAIN),
        *labelled("a", range(4, 7), SPLIT_VAL),
        *labelled("b", range(7, 12)),
    )
    version = await seal(dataset_service, name)
    assert [(one.label, one.num_train, one.num_val) for one in version.classes] == [("a", 4, 3), ("b", 5, 0)]
    assert [one.reason for one in version.notices] == ["FEW_EXAMPLES", "UNMEASURED_CLASSES"]


async def test_splits_that_are_said_later_are_kept(
    dataset_service: DatasetService, labelled: Callable[..., list[Item]]
) -> None:
    """What was uploaded for no split and then for one stands in that one, and nothing is said of what nobody did."""
    name = await create(dataset_service)
    train, val = ([*labelled("a", one, split), *labelled("b", two, split)] for one, two, split in LATER)
    await upload(dataset_service, name, *labelled("a", range(20)), *labelled("b", range(20, 40)))
    await upload(dataset_service, name, *train, *val)
    version = await seal(dataset_service, name)
    assert [(one.label, one.num_train, one.num_val) for one in version.classes] == [("a", 15, 5), ("b", 15, 5)]
    assert not version.notices


@pytest.mark.parametrize("order", list(itertools.permutations([SPLIT_UNSPECIFIED, SPLIT_TRAIN, SPLIT_VAL])))
async def test_no_order_of_uploads_forgets_a_split(
    dataset_service: DatasetService,
    labelled: Callable[..., list[Item]],
    order: "tuple[bundle_pb2.Split.ValueType, ...]",
) -> None:
    """A picture that was uploaded for both splits and for none trains and is named, whatever came first or last, also
    when all came at once.
    """
    for at_once in (False, True):
        name = await create(dataset_service, "together" if at_once else "flowers")
        await upload(dataset_service, name, *labelled("a", range(3, 8)), *labelled("b", range(10, 15)))
        both = [upload(dataset_service, name, *labelled("a", range(3), split)) for split in order]
        if at_once:
            await asyncio.gather(*both)
        else:
            for one in both:
                await one
        version = await seal(dataset_service, name)
        (notice,) = [one for one in version.notices if one.reason == "VALIDATION_TRAINS"]
        assert "used to train only: 3 pictures (a/0.jpg, a/1.jpg, a/2.jpg)." in notice.message
        assert [(one.num_train, one.num_val) for one in version.classes] == [(8, 0), (5, 0)]


@pytest.mark.parametrize("order", [(SPLIT_TRAIN, SPLIT_VAL), (SPLIT_VAL, SPLIT_TRAIN)])
async def test_what_is_uploaded_for_both_splits_trains_and_is_named(
    dataset_service: DatasetService,
    labelled: Callable[..., list[Item]],
    order: "tuple[bundle_pb2.Split.ValueType, ...]",
) -> None:
    """A picture that was uploaded to train and to validate only trains, whichever came first, and a notice says how
    many there are and which; an example shows what it was uploaded for, which is to train where it was both.
    """
    name = await create(dataset_service)
    shared = {SPLIT_TRAIN: range(5), SPLIT_VAL: range(3, 7)}
    for split in (*order, *order):
        await upload(
            dataset_service, name, *labelled("a", shared[split], split), *labelled("b", range(7, 10), order[0])
        )
    await upload(dataset_service, name, *labelled("b", range(10, 12), order[1]))
    version = await seal(dataset_service, name)
    assert (version.classes[0].num_train, version.classes[0].num_val) == (5, 2)
    (notice,) = [one for one in version.notices if one.reason == "VALIDATION_TRAINS"]
    assert "used to train only: 2 pictures (a/3.jpg, a/4.jpg)." in notice.message
    listed = (await dataset_service.stub.ListExamples(dataset_pb2.ListExamplesRequest(parent=name))).examples
    shown = {one.filename: one.split for one in listed if one.label == "a"}
    assert shown == {f"{seed}.jpg": SPLIT_TRAIN if seed < 5 else SPLIT_VAL for seed in range(7)}


async def test_a_picture_under_two_labels_is_one_group(
    dataset_service: DatasetService, flowers: str, labelled: Callable[..., list[Item]]
) -> None:
    """The same content under two labels stands in the same split, and a notice names the files."""
    await upload(dataset_service, flowers, *labelled("rose", [0, 1, 2]))
    version = await seal(dataset_service, flowers)
    request = dataset_pb2.ListDatasetVersionExamplesRequest(parent=version.name)
    examples = (await dataset_service.stub.ListDatasetVersionExamples(request)).examples
    assert len(examples) == 18
    assert len({(one.content_sha256, one.split, one.group) for one in examples}) == 15
    (notice,) = [one for one in version.notices if one.reason == "CONTRADICTING_LABELS"]
    assert all(f"{label}/{seed}.jpg" in notice.message for label in ("daisy", "rose") for seed in range(3))


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        ([], "TOO_FEW_CLASSES"),
        ([("a", 5, SPLIT_UNSPECIFIED)], "TOO_FEW_CLASSES"),
        ([("a", 5, SPLIT_UNSPECIFIED), ("b", 1, SPLIT_UNSPECIFIED)], "TOO_FEW_EXAMPLES"),
        ([("a", 2, SPLIT_TRAIN), ("b", 2, SPLIT_VAL)], "NOTHING_TO_TRAIN_ON"),
    ],
)
async def test_what_cannot_be_learnt_from_is_not_sealed(
    dataset_service: DatasetService, labelled: Callable[..., list[Item]], classes: list[Any], reason: str
) -> None:
    """One class, a class of one example, or nothing to train on is FAILED_PRECONDITION, until there is more."""
    name = await create(dataset_service)
    for number, (label, count, split) in enumerate(classes):
        await upload(dataset_service, name, *labelled(label, range(10 * number, 10 * number + count), split))
    seal_it = dataset_pb2.CreateDatasetVersionRequest(parent=name, request_id="1")
    error = await refusal(dataset_service.stub.CreateDatasetVersion(seal_it))
    assert (type(error), error.reason) == (errors.FailedPrecondition, reason)
    await upload(dataset_service, name, *labelled("a", range(50, 53)), *labelled("b", range(60, 63), SPLIT_TRAIN))
    assert (await seal(dataset_service, name, request_id="1")).name == VERSION


@pytest.mark.parametrize("damage", ["flipped", "lost"])
async def test_a_damaged_manifest_is_data_loss(
    dataset_service: DatasetService, flowers: str, store: FilesystemStore, damage: str
) -> None:
    """A stored manifest that is gone, or is not what its hash says, is DATA_LOSS and never an answer."""
    version = await seal(dataset_service, flowers)
    key = dataset_manifest_key("default", version.manifest_sha256)
    if damage == "flipped":
        store.put(key, store.get(key).replace(b"rose", b"ruse"))
    else:
        store.delete(key)
    request = dataset_pb2.ListDatasetVersionExamplesRequest(parent=version.name)
    assert isinstance(await refusal(dataset_service.stub.ListDatasetVersionExamples(request)), errors.DataLoss)


# Every list: its request, its parent, and where its rows lie in the answer.
LISTS: dict[str, tuple[Any, str, str]] = {
    "ListDatasets": (dataset_pb2.ListDatasetsRequest, "projects/default", "datasets"),
    "ListExamples": (dataset_pb2.ListExamplesRequest, NAME, "examples"),
    "ListDatasetVersions": (dataset_pb2.ListDatasetVersionsRequest, NAME, "dataset_versions"),
    "ListDatasetVersionExamples": (dataset_pb2.ListDatasetVersionExamplesRequest, VERSION, "examples"),
}


async def _prepare(service: DatasetService, labelled: Callable[..., list[Item]]) -> None:
    """Five datasets, the last of which has five versions."""
    for name in ("a", "b", "c", "d"):
        await create(service, name)
    name = await create(service)
    await upload(service, name, *labelled("x", range(2)), *labelled("y", range(10, 12)))
    for seed in range(20, 25):
        await upload(service, name, *labelled("x", [seed]))
        await seal(service, name)


@pytest.mark.parametrize("method", LISTS)
async def test_pages_give_every_row_once(
    dataset_service: DatasetService, labelled: Callable[..., list[Item]], method: str
) -> None:
    """Page by page come the rows of the whole list, in its order; a huge page is coerced, a negative one refused."""
    await _prepare(dataset_service, labelled)
    request, parent, field = LISTS[method]
    call = getattr(dataset_service.stub, method)
    whole = await call(request(parent=parent, page_size=1_000_000_000))
    assert len(getattr(whole, field)) >= 5
    assert not whole.next_page_token
    rows, tokens = [], [""]
    while tokens[-1] or len(tokens) == 1:
        page = await call(request(parent=parent, page_size=2, page_token=tokens[-1]))
        rows += getattr(page, field)
        tokens.append(page.next_page_token)
    assert rows == list(getattr(whole, field))
    if hasattr(rows[0], "create_time"):
        times = [row.create_time.ToMicroseconds() for row in rows]
        assert times == sorted(times, reverse=True)
    error = await refusal(call(request(parent=parent, page_size=-1)))
    assert (type(error), error.violations[0][0]) == (errors.InvalidArgument, "page_size")
    for other, (other_request, other_parent, _) in LISTS.items():
        if other != method:
            foreign = other_request(parent=other_parent, page_token=tokens[1])
            error = await refusal(getattr(dataset_service.stub, other)(foreign))
            assert (type(error), error.reason) == (errors.InvalidArgument, "PAGE_TOKEN_MISMATCH")


def _forged(method: str, *key: Any) -> str:
    # What the service itself would have written, had it been asked for the rows before `key`.
    request, parent, _ = LISTS[method]
    question = hashlib.sha256(f"{request.__name__} {parent}".encode()).hexdigest()[:16]
    return base64.urlsafe_b64encode(json.dumps([question, *key]).encode()).decode()


@pytest.mark.parametrize(
    ("method", "token"),
    [
        ("ListDatasets", "forged"),
        ("ListDatasets", "é"),
        ("ListDatasets", base64.urlsafe_b64encode(b"[" * 100_000).decode()),
        ("ListDatasets", _forged("ListDatasets", 10**30, "a")),
        ("ListDatasets", _forged("ListDatasets", 1, "\ud800")),
        ("ListDatasets", _forged("ListDatasets", "1", "a")),
        ("ListDatasetVersions", _forged("ListDatasetVersions", 10**30)),
        ("ListDatasetVersionExamples", _forged("ListDatasetVersionExamples", -2)),
    ],
    ids=range(8),
)
async def test_forged_tokens_are_refused(
    dataset_service: DatasetService, flowers: str, method: str, token: str
) -> None:
    """A page token that no answer can have held is INVALID_ARGUMENT naming the field."""
    await seal(dataset_service, flowers)
    request, parent, _ = LISTS[method]
    error = await refusal(getattr(dataset_service.stub, method)(request(parent=parent, page_token=token)))
    assert (type(error), [field for field, _ in error.violations]) == (errors.InvalidArgument, ["page_token"])


NAMED: dict[str, tuple[Any, str, str]] = {
    "CreateDataset": (dataset_pb2.CreateDatasetRequest, "parent", ""),
    "GetDataset": (dataset_pb2.GetDatasetRequest, "name", NAME),
    "CreateDatasetVersion": (dataset_pb2.CreateDatasetVersionRequest, "parent", NAME),
    "GetDatasetVersion": (dataset_pb2.GetDatasetVersionRequest, "name", VERSION),
    "ListDatasets": (dataset_pb2.ListDatasetsRequest, "parent", ""),
    "ListExamples": (dataset_pb2.ListExamplesRequest, "parent", NAME),
    "ListDatasetVersions": (dataset_pb2.ListDatasetVersionsRequest, "parent", NAME),
    "ListDatasetVersionExamples": (dataset_pb2.ListDatasetVersionExamplesRequest, "parent", VERSION),
}


@pytest.mark.parametrize("method", NAMED)
async def test_names_are_checked_and_projects_kept_apart(
    dataset_service: DatasetService, flowers: str, method: str
) -> None:
    """What is no name is INVALID_ARGUMENT naming the field; what is unknown, or another project's, is NOT_FOUND."""
    await seal(dataset_service, flowers)
    request, field, known = NAMED[method]
    call = getattr(dataset_service.stub, method)
    for bad in ("", "flowers", "projects/Default", f"{known}/", f"{known}\n", "projects/../datasets/x", "x" * 100_000):
        error = await refusal(call(request(**{field: bad})))
        assert (type(error), [one for one, _ in error.violations]) == (errors.InvalidArgument, [field]), bad
    if known:
        for absent in (known.replace("default", "other"), known.replace("flowers", "trees")):
            assert isinstance(await refusal(call(request(**{field: absent}))), errors.NotFound)
        await call(request(**{field: known}))


@pytest.mark.parametrize(
    ("field", "request_fields"),
    [
        ("dataset_id", {"dataset_id": ""}),
        ("dataset_id", {"dataset_id": "Flowers"}),
        ("dataset_id", {"dataset_id": "f" * 64}),
        ("dataset_id", {"dataset_id": "flowers\n"}),
        ("modality", {"dataset_id": "flowers", "modality": 9}),
        ("request_id", {"dataset_id": "flowers", "request_id": "x" * 65}),
    ],
)
async def test_bad_fields_are_named(
    dataset_service: DatasetService, field: str, request_fields: dict[str, Any]
) -> None:
    """A dataset with a bad id, an unknown modality or an overlong request_id is not created; the field is named."""
    request = dataset_pb2.CreateDatasetRequest(parent="projects/default", **request_fields)
    error = await refusal(dataset_service.stub.CreateDataset(request))
    assert (type(error), [one for one, _ in error.violations]) == (errors.InvalidArgument, [field])
    listed = await dataset_service.stub.ListDatasets(dataset_pb2.ListDatasetsRequest(parent="projects/default"))
    assert not listed.datasets


async def test_examples_are_shown_small(dataset_service: DatasetService, flowers: str) -> None:
    """Pictures that the dataset has come in the order asked for, as small JPEG files; what it has not is left out."""
    listed = (await dataset_service.stub.ListExamples(dataset_pb2.ListExamplesRequest(parent=flowers))).examples
    wanted = [listed[3].content_sha256, "0" * 64, listed[1].content_sha256, listed[3].content_sha256]
    request = dataset_pb2.GetThumbnailsRequest(parent=flowers, content_sha256s=wanted, side=32)
    found = (await dataset_service.stub.GetThumbnails(request)).thumbnails
    assert [(one.content_sha256, one.filename) for one in found] == [
        (listed[place].content_sha256, listed[place].filename) for place in (3, 1)
    ]
    for one in found:
        with Image.open(io.BytesIO(one.jpeg)) as image:
            assert (image.format, max(image.size)) == ("JPEG", 32)


async def test_one_picture_that_is_damaged_costs_no_other(
    dataset_service: DatasetService, flowers: str, store: FilesystemStore
) -> None:
    """Where stored pictures are gone or other bytes, the others come, and those say that there is a problem."""
    listed = (await dataset_service.stub.ListExamples(dataset_pb2.ListExamplesRequest(parent=flowers))).examples
    wanted = [one.content_sha256 for one in listed[:3]]
    store.delete(blob_key("default", wanted[0]))
    store.put(blob_key("default", wanted[1]), b"no picture")
    request = dataset_pb2.GetThumbnailsRequest(parent=flowers, content_sha256s=wanted)
    found = (await dataset_service.stub.GetThumbnails(request)).thumbnails
    assert [(one.content_sha256, one.problem, bool(one.jpeg)) for one in found] == [
        (wanted[0], "The stored picture is damaged or gone.", False),
        (wanted[1], "The stored picture is damaged or gone.", False),
        (wanted[2], "", True),
    ]
    assert [one.filename for one in found] == [one.filename for one in listed[:3]]


async def test_small_pictures_that_are_large_come_in_several_answers(
    dataset_service: DatasetService,
) -> None:
    """What exceeds an answer is named in it, every message stays within gRPC's 4 MiB, and the client gets all."""
    name, noise = await create(dataset_service), np.random.default_rng(0)
    items: list[Item] = []
    for seed in range(100):
        buffer = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (256, 256, 3), np.uint8)).save(buffer, "JPEG", quality=90)
        items.append((Step.Begin(label="noise", filename=f"{seed}.jpg"), buffer.getvalue()))
    contents = [one.stored.example.content_sha256 for one in await upload(dataset_service, name, *items)]
    request = dataset_pb2.GetThumbnailsRequest(parent=name, content_sha256s=contents, side=256)
    answer = await dataset_service.stub.GetThumbnails(request)
    assert 0 < len(answer.thumbnails) < 100
    assert [*(one.content_sha256 for one in answer.thumbnails), *answer.unanswered_content_sha256s] == contents
    with Client(Addresses(dataset=dataset_service.address)) as client:
        found = await asyncio.to_thread(client.thumbnails, "flowers", contents, 256)
    assert sum(len(one.jpeg) for one in found.values()) > 4 * 2**20
    assert list(found) == contents


@pytest.mark.parametrize(
    ("wrong", "fields"),
    [
        ({}, ["content_sha256s"]),
        ({"content_sha256s": ["0" * 64] * 101}, ["content_sha256s"]),
        ({"content_sha256s": ["0" * 64, "../x"]}, ["content_sha256s[1]"]),
        ({"content_sha256s": ["0" * 64], "side": 15}, ["side"]),
        ({"content_sha256s": ["F" * 64], "side": 257}, ["content_sha256s[0]", "side"]),
    ],
    ids=str,
)
async def test_wrong_thumbnails_are_refused(
    dataset_service: DatasetService, flowers: str, wrong: dict[str, Any], fields: list[str]
) -> None:
    """How many, which and how large: each is refused by its name, and so is a dataset that is not there."""
    asked = dataset_pb2.GetThumbnailsRequest(parent=flowers, **wrong)
    refused = await refusal(dataset_service.stub.GetThumbnails(asked))
    assert isinstance(refused, errors.InvalidArgument)
    assert [field for field, _ in refused.violations] == fields
    absent = dataset_pb2.GetThumbnailsRequest(parent=f"{NAME}-2", content_sha256s=["0" * 64])
    assert isinstance(await refusal(dataset_service.stub.GetThumbnails(absent)), errors.NotFound)
