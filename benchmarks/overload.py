"""More calls than a server can answer: how much it still answers, how long those wait, and how soon it is over.

usage: overload.py [FOLDER] [--seconds N] [--loads X,X,...]
       (default: ../shared/data/catsdogs, 20, 1,2,5,10)

The server has one core and the caller another. A model is trained on FOLDER, and its validation pictures are asked
about in an open loop: calls begin at their times, whether or not others were answered, and are never tried again. The
peak is what 16 callers in a closed loop get. Then come 80 % of it, and each load as a multiple of it, followed by 80 %
again. Every refusal must be RESOURCE_EXHAUSTED with a time to wait; anything else ends it with 1. About 4 minutes.
"""

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from grpc import StatusCode, aio

from handful import Client
from handful.channel import MESSAGE_BYTES
from handful.cli.stack import Stack
from handful.errors import from_rpc_error
from handful.folders import find
from handful.v1 import inference_pb2_grpc
from handful.v1.bundle_pb2 import SPLIT_VAL
from handful.v1.inference_pb2 import PredictRequest
from tests.inference_servers import Servers

Stub: TypeAlias = "inference_pb2_grpc.InferenceServiceAsyncStub"
MODEL = "projects/default/models/pictures"
CLOSED_LOOP_CALLERS = 16
MODEST_LOAD = 0.8
CALL_SECONDS = 20.0
# Answers of so long are looked at together, to see when the server is itself again.
WINDOW_SECONDS = 0.5
RECOVERY_SECONDS = 15.0


@dataclass
class Heard:
    """What callers were told: of each answer when its call began and how long it took, and how long refusals took."""

    began: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    asked: int = 0

    def p99(self) -> float:
        return float(np.quantile(self.seconds, 0.99))

    def line(self, duration: float) -> str:
        refused = f", refused after p99 {1e3 * np.quantile(self.refused, 0.99):.0f} ms" if self.refused else ""
        return (
            f"{self.asked / duration:6.0f} asked/s  {len(self.seconds) / duration:6.1f} answered/s  "
            f"p50 {1e3 * np.median(self.seconds):4.0f} ms  p99 {1e3 * self.p99():4.0f} ms  "
            f"{len(self.refused)} refused{refused}"
        )


async def call(stub: Stub, picture: bytes, heard: Heard) -> None:
    started = time.perf_counter()
    heard.asked += 1
    try:
        await stub.Predict(PredictRequest(model=MODEL, image=picture), timeout=CALL_SECONDS)
    except aio.AioRpcError as problem:
        error = from_rpc_error(problem)
        if problem.code() != StatusCode.RESOURCE_EXHAUSTED or "pushback_ms" not in error.facts:
            sys.exit(f"not a refusal as promised: {error.code.name} {error.reason} {error.message}")
        heard.refused.append(time.perf_counter() - started)
    else:
        heard.began.append(started)
        heard.seconds.append(time.perf_counter() - started)


async def closed_loop(stub: Stub, pictures: list[bytes], seconds: float) -> float:
    """Answers per second."""
    heard, ends, turn = Heard(), time.perf_counter() + seconds, itertools.cycle(pictures)

    async def caller() -> None:
        while time.perf_counter() < ends:
            await call(stub, next(turn), heard)

    await asyncio.gather(*(caller() for _ in range(CLOSED_LOOP_CALLERS)))
    return len(heard.seconds) / seconds


async def open_loop(stub: Stub, pictures: list[bytes], rate: float, seconds: float) -> Heard:
    """Calls at random moments, as of many callers who know nothing of each other: a Poisson process."""
    heard, calls, gaps = Heard(), [], np.random.default_rng(0)
    started = due = time.perf_counter()
    for picture in itertools.cycle(pictures):
        due += gaps.exponential(1 / rate)
        if due - started > seconds:
            break
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        calls.append(asyncio.create_task(call(stub, picture, heard)))
    await asyncio.gather(*calls)
    return heard


def recovered_after(heard: Heard, since: float, usual: float) -> float:
    """Seconds after which no window has an answer that took twice the usual p99."""
    slow = [began for began, took in zip(heard.began, heard.seconds, strict=True) if took > 2 * usual]
    late = [began for began in slow if began - since > WINDOW_SECONDS]
    return max(late, default=since) - since


async def campaign(port: int, pictures: list[bytes], loads: list[float], seconds: float) -> None:
    options = [("grpc.enable_retries", 0), ("grpc.max_send_message_length", MESSAGE_BYTES)]
    async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await closed_loop(stub, pictures, 3)
        peak = await closed_loop(stub, pictures, seconds)
        print(f"peak: {peak:.1f} answered/s by {CLOSED_LOOP_CALLERS} callers in a closed loop", flush=True)
        modest = await open_loop(stub, pictures, MODEST_LOAD * peak, seconds)
        print(f"{MODEST_LOAD:4.1f} x  {modest.line(seconds)}", flush=True)
        for load in loads:
            heard = await open_loop(stub, pictures, load * peak, seconds)
            share, longer = len(heard.seconds) / seconds / peak, heard.p99() / modest.p99()
            ended = time.perf_counter()
            after = await open_loop(stub, pictures, MODEST_LOAD * peak, RECOVERY_SECONDS)
            again = recovered_after(after, ended, modest.p99())
            print(f"{load:4.1f} x  {heard.line(seconds)}")
            said = f"{share:.0%} of the peak, p99 {longer:.1f} x that at 80 %, as before after {again:.1f} s"
            print(f"        {said}", flush=True)


def trained(home: Path, folder: Path) -> list[bytes]:
    """Has a model of the folder in a home's store; the validation pictures."""
    files = [one.path.read_bytes() for one in find(folder) if one.split == SPLIT_VAL]
    with Stack.on_free_ports(home) as stack, Client(stack.addresses) as client:
        client.push("pictures", folder)
        client.train("pictures").result()
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[2] / "shared/data/catsdogs"
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--loads", default="1,2,5,10")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="handful-overload-") as home:
        pictures = trained(Path(home), given.folder)
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:1])  # what is started now inherits it
        servers = Servers(Path(home), 1)
        os.sched_setaffinity(0, cores[1:] or cores)
        try:
            loads = [float(one) for one in given.loads.split(",")]
            asyncio.run(campaign(servers.ports[0], pictures, loads, given.seconds))
        finally:
            servers.stop()


if __name__ == "__main__":
    main()
