"""`handful architectures`: the networks that the trainer can train, as a table or as JSON."""

import argparse
import json
from typing import Any

from google.protobuf import json_format
from rich.markup import escape

from handful import Client
from handful.cli import commands
from handful.cli.tables import plain_table, print_table
from handful.v1.bundle_pb2 import MODALITY_IMAGE, BackbonePrecision, Modality
from handful.v1.trainer_pb2 import Architecture

_WEIGHTS = {
    Architecture.WEIGHTS_STATE_UNSPECIFIED: "no worker yet",
    Architecture.WEIGHTS_STATE_PRESENT: "there",
    Architecture.WEIGHTS_STATE_FETCHABLE: "can be fetched",
    Architecture.WEIGHTS_STATE_ABSENT: "[yellow]missing[/yellow]",
    Architecture.WEIGHTS_STATE_NOT_OFFERED: "not offered",
    Architecture.WEIGHTS_STATE_NOT_NEEDED: "none",
}


def show(given: argparse.Namespace) -> int:
    """Every architecture: what it is, its size and cost, and whether its pretrained weights can be had."""
    with Client.from_env() as client:
        found = client.architectures()
    if given.json:
        print(json.dumps(list(map(_as_dict, found)), indent=2))
        return 0
    columns = ("architecture", "input", "parameters", "GFLOPs", "features", "to train", "weights", "description")
    table = plain_table(*columns)
    for one in found:
        table.add_row(
            f"{one.id}{' (default)' if one.is_default else ''}",
            _input(one),
            f"{one.num_parameters / 1e6:.1f} M",
            f"{one.gflops:g}",
            str(one.feature_width),
            f"{one.training_memory_bytes / 1e9:.1f} GB" if one.training_memory_bytes else "",
            _weights(one),
            escape(one.description),
        )
    print_table(table, commands.console)
    return 0


def _input(one: Architecture) -> str:
    if one.modality != MODALITY_IMAGE:
        return "sound"
    others = one.min_input_size < one.max_input_size
    return f"{one.input_size} px" + (f" ({one.min_input_size}-{one.max_input_size})" if others else "")


def _weights(one: Architecture) -> str:
    shown = _WEIGHTS.get(one.weights_state, str(one.weights_state))
    return f"[yellow]no worker has the extra {escape(one.extra)}[/yellow]" if one.lacks_extra else shown


def _as_dict(one: Architecture) -> dict[str, Any]:
    return {
        "name": one.id,
        "description": one.description,
        "modality": Modality.Name(one.modality).removeprefix("MODALITY_").lower(),
        "is_default": one.is_default,
        "num_parameters": one.num_parameters,
        "gflops": one.gflops,
        "input_size": one.input_size,
        "min_input_size": one.min_input_size,
        "max_input_size": one.max_input_size,
        "preprocessing": _preprocessing(one),
        "feature_width": one.feature_width,
        "num_blocks": one.num_blocks,
        "training_memory_bytes": one.training_memory_bytes,
        "code_license": one.code_license,
        "extra": one.extra,
        "lacks_extra": one.lacks_extra,
        "members": list(one.members),
        "backbone_precisions": [
            BackbonePrecision.Name(each).removeprefix("BACKBONE_PRECISION_").lower() for each in one.backbone_precisions
        ],
        "weights": Architecture.WeightsState.Name(one.weights_state).removeprefix("WEIGHTS_STATE_").lower(),
        "weights_source": one.weights_source,
        "weights_license": one.weights_license,
        "weights_license_note": one.weights_license_note,
        "weights_max_bytes": one.weights_max_bytes,
        "weights_sha256": one.weights_sha256,
    }


def _preprocessing(one: Architecture) -> dict[str, Any]:
    how = one.preprocessing if one.modality == MODALITY_IMAGE else one.sound_preprocessing
    shown = json_format.MessageToDict(how, preserving_proto_field_name=True)
    if "fit" in shown:
        shown["fit"] = shown["fit"].removeprefix("FIT_").lower()
    return shown
