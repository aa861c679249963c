"""docs/deploy.md speaks of what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "deploy.md").read_text()


def test_every_path_in_the_guide_exists() -> None:
    """Files and folders of the repository that the guide names are there."""
    named = set(re.findall(r"(?:deploy|services|tests)/[\w./-]*\w", GUIDE))
    made = {"deploy/.env", "deploy/locks"}
    assert {path for path in named - made if not (ROOT / path).exists()} == set()
    assert "deploy/compose.yaml" in named


@pytest.mark.parametrize("folder", ["components", "overlays"])
def test_every_component_and_overlay_is_in_the_guide(folder: str) -> None:
    """What can be chosen is explained."""
    there = sorted(path.name for path in (ROOT / "deploy" / "k8s" / folder).iterdir())
    assert [name for name in there if name not in GUIDE] == []


def test_the_guide_links_to_its_own_sections() -> None:
    """Every link within the page has its heading."""
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in GUIDE.splitlines()}
    assert set(re.findall(r"\]\(#([\w-]+)\)", GUIDE)) <= headings


def test_commands_name_secrets_that_pods_read() -> None:
    """The secrets that the guide has made are those that the manifests read, with nothing forgotten."""
    made = set(re.findall(r"(?:create secret generic|keep) (handful-[\w-]+)", GUIDE))
    read = set(re.findall(r"name: (handful-[\w-]+)", "".join(path.read_text() for path in _manifests())))
    others = {"handful-config", "handful-gpu", "handful-serving", "handful-training", "handful-tls"}
    assert made == read - others


def _manifests() -> list[Path]:
    folders = (ROOT / "deploy" / "k8s" / name for name in ("base", "components"))
    return [path for folder in folders for path in folder.rglob("*.yaml")]
