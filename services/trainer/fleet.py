"""What the workers that there are can do: for refusing at once what none of them can."""

from handful.errors import FailedPrecondition
from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, Recipe
from handful.v1.worker_pb2 import Capabilities
from services.shared.database import Database
from services.trainer import workers


def suits(recipe: Recipe, capabilities: Capabilities) -> bool:
    """Whether a worker can do what a recipe asks for."""
    return recipe.weights != WEIGHTS_PRETRAINED or recipe.architecture in capabilities.pretrained


class Fleet:
    """Workers that were heard of lately, with what they can do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check(self, recipe: Recipe) -> None:
        """FailedPrecondition where there are workers and none can do what the recipe asks for."""
        heard = await self._heard()
        if heard and not any(suits(recipe, capabilities) for capabilities in heard):
            raise FailedPrecondition(
                f"No worker has the pretrained weights of {recipe.architecture}. Install the package that "
                "ListArchitectures names beside a worker, or train with weights=RANDOM.",
                reason="WEIGHTS_UNAVAILABLE",
            )

    async def _heard(self) -> list[Capabilities]:
        async with self._database.read() as connection:
            return await workers.known(connection)
