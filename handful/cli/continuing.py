"""`handful continue`: more epochs from the last checkpoint of a run that is over."""

import argparse

from handful import Client
from handful.cli.commands import assignments, console, find_run, queued
from handful.cli.outcome import follow_to_the_end
from handful.recipe import as_dict, recipe


def run(given: argparse.Namespace) -> int:
    with Client.from_env() as client:
        earlier = find_run(client, given.run, trained=True)
        if given.dataset:
            client.seal(given.dataset)
        made = client.continue_training(
            earlier.name,
            given.epochs,
            dataset=given.dataset,
            model=given.model,
            promote=given.promote,
            **as_dict(recipe(assignments(given.fields))),
        )
        how, after = made.training_run.recipe, made.training_run.continued_after_epoch
        console.print(f"preset {how.preset} on {how.architecture}: epochs {after + 1} to {how.num_epochs}")
        return queued(made) if given.detach else follow_to_the_end(client, made, console)
