"""The ``darkroom`` command. Each subcommand is implemented in its own module."""

from __future__ import annotations

import click

from serve_app.cli.group import ErrorReportingGroup
from serve_app.telemetry.version import PACKAGE

PLACES = {
    "audit": "administration.audit:audit_group",
    "backup": "commands.backup:backup_command",
    "batch": "batches.command:batch_group",
    "completion": "connection.completion:completion_command",
    "contexts": "commands.login:contexts_group",
    "deploy": "apps.deploy:deploy_command",
    "doctor": "doctor.command:doctor_command",
    "drain-node": "commands.watch_spot:drain_node_command",
    "endpoints": "commands.operations:endpoints_group",
    "env": "commands.environment:env_command",
    "files": "file_access.command:files_group",
    "fsck": "commands.backup:fsck_command",
    "generate": "generation.generate:generate_command",
    "inspect": "commands.inspect_file:inspect_command",
    "keys": "commands.keys:keys_group",
    "login": "commands.login:login_command",
    "logout": "commands.login:logout_command",
    "logs": "commands.request_commands:logs_command",
    "migrate": "migration.command:migrate_group",
    "models": "commands.models:models_group",
    "open": "commands.request_commands:open_command",
    "queue": "commands.operations:queue_command",
    "requests": "commands.request_commands:requests_group",
    "restore": "commands.backup:restore_command",
    "secrets": "registration.secrets:secrets_group",
    "serve": "serve.command:serve_command",
    "serve-config": "commands.serve_config:serve_config_command",
    "shadows": "administration.shadows:shadows_command",
    "status": "commands.request_commands:status_command",
    "storage": "doctor.storage_rules:storage_group",
    "tenants": "administration.tenants:tenants_group",
    "top": "commands.top:top_command",
    "tune": "commands.tune:tune_command",
    "undeploy": "apps.undeploy:undeploy_command",
    "usage": "accounting.usage:usage_group",
    "verify": "verification.command:verify_command",
    "warm": "commands.warm:warm_group",
    "watch-spot": "commands.watch_spot:watch_spot_command",
    "webhooks": "commands.webhooks:webhooks_group",
    "weights": "registration.weights:weights_group",
}
"""Command → its place in this package. Plain groups of resources are beside these."""


@click.group(
    cls=ErrorReportingGroup,
    places={name: f"serve_app.cli.{place}" for name, place in PLACES.items()},
    others="serve_app.cli.administration.plain:GROUPS",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name=PACKAGE, prog_name="darkroom")
def main() -> None:
    """Self-hosted inference for generative media, compatible with fal's API."""
