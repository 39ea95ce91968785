"""Rules of private files in an ingress process."""

from __future__ import annotations

from serve_app.domain.media.file_access import AccessDecision
from serve_app.ingress.services.file_access import (
    STORED_S,
    AccessRules,
    FileAccessControl,
    FileDefaults,
)
from serve_app.settings import Config
from serve_app.storage.signed_urls import FileUrlSigner
from tests.fakes.clock import FakeClock
from tests.fakes.file_access import FakeFileAccess

DEFAULTS = FileDefaults.of(Config())


async def test_files_of_a_tenant_that_was_deleted_and_made_again_have_their_rules_stored() -> None:
    clock = FakeClock()
    book = FakeFileAccess(clock)
    access = FileAccessControl(book, FileUrlSigner(b"k" * 32, clock), DEFAULTS, clock)
    rules = access.of_new("acme", AccessRules(AccessDecision.FORBID))
    assert rules is not None
    await access.store_rules(rules)
    book.delete_tenant("acme")
    clock.advance(STORED_S)
    id_ = await access.store_rules(rules)
    found = await book.find(id_)
    assert found is not None
    assert found.tenant == "acme"
