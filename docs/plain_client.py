"""Uploads, trains, watches and predicts with the generated stubs alone: what any language's client does.

usage: plain_client.py FOLDER PICTURE   (FOLDER/cat/1.jpg, FOLDER/dog/2.jpg, ...)
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc

from handful.v1 import dataset_pb2, dataset_pb2_grpc, inference_pb2, inference_pb2_grpc, trainer_pb2, trainer_pb2_grpc

folder, picture, name = Path(sys.argv[1]), Path(sys.argv[2]), "projects/default/datasets/plain"
dataset_channel, trainer_channel, inference_channel = (
    grpc.insecure_channel(os.environ[f"HANDFUL_{service}"]) for service in ("DATASET", "TRAINER", "INFERENCE")
)
datasets = dataset_pb2_grpc.DatasetServiceStub(dataset_channel)
trainer = trainer_pb2_grpc.TrainerServiceStub(trainer_channel)
inference = inference_pb2_grpc.InferenceServiceStub(inference_channel)


def upload() -> Iterator[dataset_pb2.UploadExamplesRequest]:
    step = dataset_pb2.UploadExamplesRequest
    yield step(open=step.Open(dataset=name))
    for file in sorted(folder.glob("*/*")):
        yield step(begin=step.Begin(client_ref=str(file), label=file.parent.name))
        yield step(chunk=step.Chunk(data=file.read_bytes()))  # at most 1 MiB; larger files take several
        yield step(commit=step.Commit())


datasets.CreateDataset(dataset_pb2.CreateDatasetRequest(parent="projects/default", dataset_id="plain"))
for verdict in datasets.UploadExamples(upload()):
    print(verdict.client_ref, verdict.WhichOneof("verdict"))
datasets.CreateDatasetVersion(dataset_pb2.CreateDatasetVersionRequest(parent=name))
request = trainer_pb2.CreateTrainingRunRequest(parent="projects/default", dataset=name)
run = trainer.CreateTrainingRun(request).training_run
for message in trainer.WatchTrainingRun(trainer_pb2.WatchTrainingRunRequest(name=run.name, after_sequence=0)):
    if message.event.HasField("epoch_completed"):
        print(message.event.epoch, {one.name: one.value for one in message.event.epoch_completed.metrics})
answer = inference.Predict(inference_pb2.PredictRequest(model=run.model, image=picture.read_bytes()))
print(answer.model_version, [(one.label, one.score) for one in answer.predictions])
