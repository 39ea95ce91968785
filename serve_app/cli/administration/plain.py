"""Groups of commands for resources that need no others than the plain ones."""

from __future__ import annotations

from serve_app.cli.connection.resources import plain_group
from serve_app.resources.drafts import DRAFTS
from serve_app.resources.jobs import JOBS
from serve_app.resources.shares import SHARES
from serve_app.resources.workflows import WORKFLOWS

drafts_group = plain_group(DRAFTS)
jobs_group = plain_group(JOBS)
shares_group = plain_group(SHARES)
workflows_group = plain_group(WORKFLOWS)
