"""The docs page about diffusers' video and audio pipelines is correct."""

from __future__ import annotations

import random

import pytest

from tests.deployments.media_classes import FITS, NOT, SERVED, examine, of_media
from tests.docs.pages import DOCS, code, table

PAGE = DOCS / "reference" / "media-pipelines.md"

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore"), pytest.mark.long]


def documented_classes() -> dict[str, tuple[str, str]]:
    return {
        name: (served, how)
        for how, served, names in table(PAGE, "task, or reason")
        for name in code(names)
        if name.endswith("Pipeline")
    }


def test_every_class_is_there_and_counted() -> None:
    rows = documented_classes()
    assert rows.keys() == of_media().keys()
    count = {
        verdict: sum(served == verdict for served, _ in rows.values())
        for verdict in (SERVED, FITS, NOT)
    }
    text = " ".join(PAGE.read_text().split())
    assert f"Of {len(rows)} classes, {count[SERVED]} are served, {count[FITS]} accept" in text
    assert f"and {count[NOT]} are not served." in text


def test_some_at_random_are_served_or_not_as_the_page_says(chance: random.Random) -> None:
    classes, rows = of_media(), documented_classes()
    for name in chance.sample(sorted(classes), 6):
        served, how = rows[name]
        finding = examine(name, classes[name])
        assert finding.how == how, name
        # Tiny components may have been added since the page was written.
        assert finding.served == served or (served == FITS and finding.served == SERVED), name
