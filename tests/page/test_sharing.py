"""Share links: made in the gallery, and opened by people without a key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from playwright.sync_api import BrowserContext, Route, expect

from tests.page.album import Entry
from tests.page.axe import axe
from tests.page.gallery import Gallery

ENTRY = Entry("a lighthouse", timedelta(minutes=1), files=2, input={"guidance_scale": 3.5})


@pytest.fixture
def sharing(gallery: Gallery) -> Gallery:
    """Gallery with the dialog for the links of its one request."""
    gallery.darkroom.hang([ENTRY])
    gallery.open()
    gallery.link("a lighthouse (1)").click()
    gallery.page.get_by_role("button", name="Share").click()
    return gallery


def test_a_link_is_opened_by_somebody_without_a_key_until_it_is_revoked(
    sharing: Gallery, open_context: Callable[..., BrowserContext]
) -> None:
    dialog = sharing.page.get_by_role("dialog", name="Share")
    dialog.get_by_label("Valid for").select_option("1 day")
    dialog.get_by_role("button", name="Make a link").click()
    link = dialog.get_by_label("Link", exact=True).input_value()
    guest = open_context().new_page()
    guest.goto(link)
    expect(guest.get_by_role("heading", name="a lighthouse")).to_be_visible()
    expect(guest.get_by_role("img", name="a lighthouse")).to_have_count(2)
    for image in guest.get_by_role("img", name="a lighthouse").all():
        image.evaluate("image => image.decode()")
    expect(guest.get_by_text("Guidance", exact=True)).to_be_visible()
    expect(guest.get_by_role("link", name="Download")).to_have_count(2)
    assert axe(guest) == []
    dialog.get_by_role("button", name="Revoke").click()
    expect(dialog.get_by_role("button", name="Revoke")).to_have_count(0)
    guest.reload()
    expect(guest.get_by_text("This link does not work.")).to_be_visible()
    assert axe(guest) == []


@pytest.mark.long
def test_the_page_of_a_link_fits_on_a_phone(
    sharing: Gallery, open_context: Callable[..., BrowserContext]
) -> None:
    sharing.page.get_by_role("button", name="Make a link").click()
    link = sharing.page.get_by_label("Link", exact=True).input_value()
    context = open_context(viewport={"width": 360, "height": 740}, has_touch=True)
    context.add_init_script("localStorage.setItem('darkroom.theme', 'light')")
    phone = context.new_page()
    phone.goto(link)
    expect(phone.get_by_role("heading", name="a lighthouse")).to_be_visible()
    assert axe(phone) == []
    assert phone.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.long
def test_a_server_that_is_busy_does_not_say_that_the_link_has_ended(
    sharing: Gallery, open_context: Callable[..., BrowserContext]
) -> None:
    sharing.page.get_by_role("button", name="Make a link").click()
    link = sharing.page.get_by_label("Link", exact=True).input_value()
    guest = open_context().new_page()

    def busy(route: Route) -> None:
        if "json" in route.request.headers["accept"]:
            route.fulfill(status=503, json={"detail": "The database does not answer."})
        else:
            route.continue_()

    guest.route("**/v1/shared/*", busy)
    guest.goto(link)
    expect(guest.get_by_text("Darkroom does not answer. Try again later.")).to_be_visible()


@pytest.mark.long
def test_the_page_of_a_link_has_the_light_theme_without_an_error(
    sharing: Gallery, open_context: Callable[..., BrowserContext]
) -> None:
    sharing.page.get_by_role("button", name="Make a link").click()
    link = sharing.page.get_by_label("Link", exact=True).input_value()
    context = open_context()
    context.add_init_script("localStorage.setItem('darkroom.theme', 'light')")
    guest = context.new_page()
    errors: list[str] = []
    guest.on("pageerror", lambda error: errors.append(str(error)))
    guest.goto(link)
    expect(guest.get_by_role("heading", name="a lighthouse")).to_be_visible()
    assert errors == []
