"""The ``darkroom`` command. Each subcommand is implemented in its own module."""

from __future__ import annotations

from collections.abc import Mapping

import click

from serve_app.cli.group import ErrorReportingGroup
from serve_app.telemetry.version import PACKAGE

COLUMNS = 100
"""Width of the help on a terminal that is as wide."""

PLACES: Mapping[str, Mapping[str, str]] = {
    "Start": {
        "serve": "serve.command:serve_command",
        "doctor": "doctor.command:doctor_command",
        "env": "commands.environment:env_command",
        "login": "commands.login:login_command",
        "logout": "commands.login:logout_command",
        "contexts": "commands.login:contexts_group",
        "completion": "connection.completion:completion_command",
    },
    "Generate": {
        "generate": "generation.generate:generate_command",
        "batch": "batches.command:batch_group",
        "drafts": "administration.plain:drafts_group",
        "open": "commands.request_commands:open_command",
        "inspect": "commands.inspect_file:inspect_command",
        "verify": "verification.command:verify_command",
        "migrate": "migration.command:migrate_group",
    },
    "Models": {
        "models": "commands.models:models_group",
        "weights": "registration.weights:weights_group",
        "deploy": "apps.deploy:deploy_command",
        "undeploy": "apps.undeploy:undeploy_command",
        "workflows": "administration.plain:workflows_group",
        "warm": "commands.warm:warm_group",
        "tune": "commands.tune:tune_command",
    },
    "Look": {
        "status": "commands.request_commands:status_command",
        "top": "commands.top:top_command",
        "queue": "commands.operations:queue_command",
        "requests": "commands.request_commands:requests_group",
        "logs": "commands.request_commands:logs_command",
        "usage": "accounting.usage:usage_group",
        "shadows": "administration.shadows:shadows_command",
    },
    "Access": {
        "keys": "commands.keys:keys_group",
        "tenants": "administration.tenants:tenants_group",
        "secrets": "registration.secrets:secrets_group",
        "shares": "administration.plain:shares_group",
        "files": "file_access.command:files_group",
        "webhooks": "commands.webhooks:webhooks_group",
        "audit": "administration.audit:audit_group",
    },
    "Operate": {
        "endpoints": "commands.operations:endpoints_group",
        "jobs": "administration.plain:jobs_group",
        "backup": "commands.backup:backup_command",
        "restore": "commands.backup:restore_command",
        "fsck": "commands.backup:fsck_command",
        "storage": "doctor.storage_rules:storage_group",
        "serve-config": "commands.serve_config:serve_config_command",
        "drain-node": "commands.watch_spot:drain_node_command",
        "watch-spot": "commands.watch_spot:watch_spot_command",
    },
}
"""Heading of the help → command → its place in this package."""


@click.group(
    cls=ErrorReportingGroup,
    places={
        heading: {name: f"serve_app.cli.{place}" for name, place in places.items()}
        for heading, places in PLACES.items()
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": COLUMNS},
)
@click.version_option(package_name=PACKAGE, prog_name="darkroom")
def main() -> None:
    """Self-hosted inference for generative media, compatible with fal's API."""
