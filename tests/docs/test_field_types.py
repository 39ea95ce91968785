"""The table of what can be wrong with a field claims nothing without a test."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.docs.pages import DOCS, code, table
from tests.docs.test_matrix import named_in

ROWS = table(DOCS / "reference" / "errors.md", "type")
TESTS: Mapping[str, tuple[str, ...]] = {
    "missing": ("tests/ingress/http/test_errors.py::test_each_wrong_field_is_named",),
    "greater_than": (
        "tests/catalog/test_catalog.py::test_a_wrong_field_is_named",
        "tests/catalog/fields/test_fal_types.py::test_bounds_have_fals_names",
    ),
    "multiple_of": ("tests/catalog/fields/test_fal_types.py::test_bounds_have_fals_names",),
    "one_of": ("tests/catalog/test_catalog.py::test_a_wrong_field_is_named",),
    "sequence_too_short": (
        "tests/catalog/test_catalog.py::test_a_wrong_field_is_named",
        "tests/catalog/fields/test_fal_types.py::test_bounds_have_fals_names",
    ),
    "image_too_large": (
        "tests/catalog/test_catalog.py::test_a_wrong_field_is_named",
        "tests/deployments/families/test_image_tasks.py::test_an_image_that_cannot_be_had_is_the_fault_of_its_field",
    ),
    "work_too_large": (
        "tests/domain/test_work_limit.py::test_an_image_that_is_too_large_is_refused_with_the_largest",
    ),
    "image_too_small": (
        "tests/deployments/families/test_image_tasks.py::test_an_image_that_cannot_be_had_is_the_fault_of_its_field",
    ),
    "image_load_error": (
        "tests/deployments/families/test_image_tasks.py::test_an_image_that_cannot_be_had_is_the_fault_of_its_field",
    ),
    "unsupported_image_format": (
        "tests/domain/media/test_images.py::test_a_format_that_is_not_read_is_named",
    ),
    "unsupported_video_format": (
        "tests/engine/media/test_video_reader.py::test_what_is_no_video_is_refused_by_the_name_of_its_field",
        "tests/engine/media/test_audio_reading.py::test_what_is_no_audio_is_refused_by_the_name_of_its_field",
    ),
    "audio_duration_too_long": (
        "tests/deployments/families/test_audio.py::test_more_than_the_model_can_make_is_refused_by_the_name_of_the_field",
    ),
    "file_download_error": (
        "tests/deployments/transfer/test_fetcher.py::test_problems_are_reported",
        "tests/deployments/transfer/test_fetcher.py::test_private_addresses_are_refused_unless_allowed",
        "tests/deployments/transfer/test_fetcher.py::test_a_file_of_ours_that_is_no_more_is_reported_as_such",
    ),
    "file_too_large": (
        "tests/deployments/transfer/test_fetcher.py::test_a_file_over_the_limit_is_not_read_to_its_end",
    ),
    "unsupported_file": (
        "tests/deployments/transfer/test_lora_fetcher.py::test_what_is_no_safetensors_file_is_not_read_to_its_end",
    ),
    "unprocessable_draft": (
        "tests/ingress/submission/test_drafts.py::test_an_unknown_draft_one_of_another_tenant_and_a_deleted_one_are_the_same",
        "tests/deployments/replica/test_drafts.py::test_what_only_the_replica_can_refuse_names_the_field",
    ),
    "feature_not_supported": (
        "tests/catalog/fields/test_field_notes.py::test_what_would_change_the_image_is_refused_and_not_left_out",
    ),
    "content_policy_violation": (
        "tests/ingress/submission/test_safety.py::test_a_blocked_word_is_named_by_fals_type_of_error_and_nothing_is_queued",
    ),
    "json_invalid": (
        "tests/ingress/http/test_errors.py::test_a_body_that_is_no_input_is_reported",
    ),
}
"""Tests of each row, by its first type."""


def test_every_row_has_its_tests() -> None:
    assert [code(row[0])[0] for row in ROWS] == list(TESTS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_row_names_tests_that_are_there(row: list[str]) -> None:
    types, when, _ = row
    assert when
    for named in TESTS[code(types)[0]]:
        file, _, name = named.partition("::")
        assert name in named_in(file), named
