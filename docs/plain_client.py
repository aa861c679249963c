"""Uploads FOLDER/cat/1.jpg ..., trains, watches and predicts a PICTURE, with the generated stubs alone."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import grpc

from handful.v1 import dataset_pb2, dataset_pb2_grpc, inference_pb2, inference_pb2_grpc, trainer_pb2, trainer_pb2_grpc

folder, picture, parent, name = (
    Path(sys.argv[1]),
    Path(sys.argv[2]),
    "projects/default",
    "projects/default/datasets/plain",
)
at = os.environ.get
datasets = dataset_pb2_grpc.DatasetServiceStub(grpc.insecure_channel(at("HANDFUL_DATASET", "127.0.0.1:7101")))
trainer = trainer_pb2_grpc.TrainerServiceStub(grpc.insecure_channel(at("HANDFUL_TRAINER", "127.0.0.1:7102")))
inference = inference_pb2_grpc.InferenceServiceStub(grpc.insecure_channel(at("HANDFUL_INFERENCE", "127.0.0.1:7103")))


def upload() -> Iterator[dataset_pb2.UploadExamplesRequest]:
    step = dataset_pb2.UploadExamplesRequest
    yield step(open=step.Open(dataset=name))
    for file in sorted(path for path in folder.glob("*/*") if path.is_file()):
        yield step(begin=step.Begin(client_ref=str(file), label=file.parent.name))
        for start in range(0, file.stat().st_size, 2**20):  # at most 1 MiB at a time
            yield step(chunk=step.Chunk(data=file.read_bytes()[start : start + 2**20]))
        yield step(commit=step.Commit())


datasets.CreateDataset(dataset_pb2.CreateDatasetRequest(parent=parent, dataset_id="plain", request_id=str(UUID(int=1))))
print([verdict.WhichOneof("verdict") for verdict in datasets.UploadExamples(upload())])
datasets.CreateDatasetVersion(dataset_pb2.CreateDatasetVersionRequest(parent=name))
run = trainer.CreateTrainingRun(trainer_pb2.CreateTrainingRunRequest(parent=parent, dataset=name)).training_run
for message in trainer.WatchTrainingRun(trainer_pb2.WatchTrainingRunRequest(name=run.name, after_sequence=0)):
    if message.event.HasField("epoch_completed"):
        print(message.event.epoch, {one.name: one.value for one in message.event.epoch_completed.metrics})
answer = inference.Predict(inference_pb2.PredictRequest(model=run.model, image=picture.read_bytes()))
print(answer.model_version, [(one.label, one.score) for one in answer.predictions])
