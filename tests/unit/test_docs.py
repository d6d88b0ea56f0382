"""The reference says what the code says, and no page points at nothing."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from pages import ROOT, pages
from reference import FOLDER, refreshed

SOURCES = ROOT / "src" / "backstay"
_PROOF = re.compile(r"`([\w/]+\.py)::(test_\w+)`")
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
_EVENT = re.compile(r"\.emit\(\s*\w+,\s*\"([a-z_]+\.[a-z_.]+)\"")
_ACTION = re.compile(r"(?:\.record\(\s*\w+,\s*\w+,|_entry\(\s*\w+,|action=)\s*\"([a-z_]+\.[a-z_.]+)\"")


def test_the_reference_is_what_the_code_says() -> None:
    behind = [
        file.name
        for file in sorted(FOLDER.glob("*.md"))
        if refreshed(file.read_text(encoding="utf-8")) != file.read_text(encoding="utf-8")
    ]
    assert not behind, f"{', '.join(behind)} fell behind the code: run `python tests/reference.py`"


@pytest.mark.parametrize(("pattern", "page"), [(_EVENT, "events.md"), (_ACTION, "audit.md")])
def test_every_event_and_audit_action_in_the_code_is_in_the_reference(pattern: re.Pattern[str], page: str) -> None:
    named = {name for file in SOURCES.rglob("*.py") for name in pattern.findall(file.read_text(encoding="utf-8"))}
    told = (FOLDER / page).read_text(encoding="utf-8")
    missing = sorted(name for name in named if f"`{name}`" not in told)
    assert named, "the pattern finds nothing in the code any more"
    assert not missing, f"{page} does not tell of {', '.join(missing)}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = [match[1] for match in _LINK.finditer(page.read_text(encoding="utf-8"))]
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [str(page.relative_to(ROOT / "docs")) for page in pages()[1:]]
    assert not [name for name in missing if name not in navigation], "add them to nav in mkdocs.yml"


def test_every_test_that_a_guarantee_names_is_there() -> None:
    named = _PROOF.findall((ROOT / "docs/explain/guarantees.md").read_text(encoding="utf-8"))
    assert named, "the page names tests in another way now"
    missing = [f"{file}::{test}" for file, test in named if not _defines(ROOT / "tests" / file, test)]
    assert not missing


def test_every_guarantee_names_a_test() -> None:
    rows = [
        line for line in (ROOT / "docs/explain/guarantees.md").read_text(encoding="utf-8").splitlines() if "|" in line
    ]
    assert not [row for row in rows if not (_PROOF.search(row) or row.startswith(("| ---", "| Guarantee")))]


def _defines(file: Path, test: str) -> bool:
    return file.exists() and f"def {test}(" in file.read_text(encoding="utf-8")


def test_every_dependency_has_its_line_with_licence_and_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = [item for items in project["project"]["optional-dependencies"].values() for item in items]
    wanted = [*project["project"]["dependencies"], *extras, *project["dependency-groups"]["dev"]]
    wanted += project["build-system"]["requires"]
    told = (ROOT / "docs/decisions/0007-dependencies.md").read_text(encoding="utf-8")
    names = {re.split(r"[\[>=<~! ]", item)[0] for item in wanted}
    assert not sorted(name for name in names if not re.search(rf"\| {re.escape(name)}\b", told))


def test_every_npm_package_has_its_line_with_its_exact_version() -> None:
    program = json.loads((ROOT / "tests/conformance/clients/node/package.json").read_text(encoding="utf-8"))
    told = (ROOT / "docs/decisions/0007-dependencies.md").read_text(encoding="utf-8")
    for name, version in program["dependencies"].items():
        assert re.search(rf"\| {re.escape(name)} \| [^|]+ \| {re.escape(version)} \(", told), f"{name} {version}"
