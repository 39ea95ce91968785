"""Previews of every pipeline class: they show what the class decodes, and change nothing."""

from __future__ import annotations

import pytest

from tests.engine.conformance.case import Case
from tests.engine.conformance.previews import check, check_of_draft
from tests.engine.conformance.zoo import cases

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


@pytest.mark.variants(1)
def test_a_preview_shows_what_the_pipeline_decodes_and_changes_nothing(case: Case) -> None:
    check(case)


COSMOS = ("CosmosTextToWorldPipeline", "CosmosVideoToWorldPipeline")


@pytest.mark.parametrize("title", [title for title, case in cases().items() if case.name in COSMOS])
def test_a_draft_of_two_steps_of_a_scheduler_for_each_of_the_denoiser_has_a_preview(
    title: str,
) -> None:
    check_of_draft(cases()[title])


@pytest.mark.long
@pytest.mark.parametrize("title", cases())
def test_each_class_has_previews_or_says_why_not(title: str) -> None:
    check(cases()[title])
