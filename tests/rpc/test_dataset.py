"""The dataset service over the wire: create, upload, seal, read."""

from collections.abc import AsyncIterator, Callable

from handful.v1 import dataset_pb2
from handful.v1.dataset_pb2 import UploadExamplesRequest as Step
from tests.servers import DatasetService


async def test_uploaded_pictures_are_sealed_into_a_version(
    dataset_service: DatasetService, picture: Callable[..., bytes]
) -> None:
    """What is uploaded can be sealed, and sealing it again gives the same version."""
    stub = dataset_service.stub
    create = dataset_pb2.CreateDatasetRequest(parent="projects/default", dataset_id="flowers")
    dataset = (await stub.CreateDataset(create)).dataset

    async def steps() -> AsyncIterator[Step]:
        yield Step(open=Step.Open(dataset=dataset.name))
        for seed in range(10):
            yield Step(begin=Step.Begin(client_ref=str(seed), label="rose" if seed % 2 else "daisy"))
            yield Step(chunk=Step.Chunk(data=picture(seed)))
            yield Step(commit=Step.Commit())

    verdicts = [answer async for answer in stub.UploadExamples(steps())]
    assert [verdict.client_ref for verdict in verdicts] == [str(seed) for seed in range(10)]
    assert all(verdict.HasField("stored") for verdict in verdicts)

    seal = dataset_pb2.CreateDatasetVersionRequest(parent=dataset.name)
    version = (await stub.CreateDatasetVersion(seal)).dataset_version
    assert [(one.label, one.num_train, one.num_val) for one in version.classes] == [("daisy", 4, 1), ("rose", 4, 1)]
    assert (await stub.CreateDatasetVersion(seal)).dataset_version == version
