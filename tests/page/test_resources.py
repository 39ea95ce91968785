"""Part of the resources: each has a table, with what its declaration says."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.page.axe import look
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.operator import Operator
from tests.page.test_account import Member
from tests.resources.notes import WITH_NOTES


@pytest.fixture
def installation() -> Iterator[PageDarkroom]:
    with page_darkroom(resources=WITH_NOTES) as darkroom:
        yield darkroom


def write_note(page: Page, darkroom: PageDarkroom, name: str, *, pinned: bool) -> None:
    own = {"authorization": f"Key {darkroom.key}"}
    note = {"text": "two words", "pinned": pinned}
    assert page.request.put(f"{darkroom.url}/v1/notes/{name}", headers=own, data=note).ok


def test_a_resource_that_is_only_declared_has_a_table_on_the_page(
    page: Page, installation: PageDarkroom
) -> None:
    for name, pinned in (("a", True), ("b", False)):
        write_note(page, installation, name, pinned=pinned)
    operator = Operator(page, installation)
    operator.open("Resources")
    notes = page.get_by_role("region", name="Notes")
    expect(notes.get_by_text("Sentences to remember.")).to_be_visible()
    heads = operator.table("Notes").get_by_role("columnheader")
    expect(heads).to_have_text(["Name", "Text", "Pinned"])
    expect(operator.row("Notes", "two words").first.get_by_role("cell").nth(1)).to_have_text("yes")
    operator.row("Notes", "two words").first.get_by_role("button", name="Delete").click()
    expect(operator.dialog).to_contain_text("Nothing else has its text.")
    operator.dialog.get_by_role("button", name="Delete it").click()
    operator.expect_said("The note a is deleted.")
    expect(operator.table("Notes").locator("tbody tr")).to_have_text([re.compile("^btwo words")])
    expect(page.get_by_text("No job fails.")).to_be_visible()
    look(page)


@pytest.mark.long
def test_a_key_sees_the_resources_of_its_scopes(page: Page, installation: PageDarkroom) -> None:
    write_note(page, installation, "a", pinned=False)
    member = Member(page, installation, "files", "read")
    member.open("Resources")
    row = member.row("Notes", "two words")
    expect(row).to_be_visible()
    expect(row.get_by_role("button", name="Delete")).to_have_count(0)  # it may only read them
    expect(page.get_by_role("region", name="Shares")).to_be_visible()
    for name in ("Secrets", "Jobs"):
        expect(page.get_by_role("region", name=name)).to_have_count(0)
