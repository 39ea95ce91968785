"""The ``darkroom`` command. Each subcommand is implemented in its own module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from serve_app.cli.accounting.usage import usage_group
from serve_app.cli.administration.audit import audit_group
from serve_app.cli.administration.shadows import shadows_command
from serve_app.cli.administration.tenants import tenants_group
from serve_app.cli.apps.deploy import deploy_command
from serve_app.cli.apps.undeploy import undeploy_command
from serve_app.cli.batches.command import batch_group
from serve_app.cli.commands import (
    backup,
    completion,
    environment,
    inspect_file,
    login,
    operations,
    requests,
    serve_config,
    webhooks,
)
from serve_app.cli.commands.keys import keys_group
from serve_app.cli.commands.models import models_group
from serve_app.cli.commands.top import top_command
from serve_app.cli.commands.tune import tune_command
from serve_app.cli.commands.warm import warm_command
from serve_app.cli.commands.watch_spot import watch_spot_command
from serve_app.cli.connection import options
from serve_app.cli.connection.installation import Installation
from serve_app.cli.connection.server import Server, here
from serve_app.cli.connection.text import in_lines
from serve_app.cli.doctor.storage_rules import storage_group
from serve_app.cli.file_access.command import files_group
from serve_app.cli.generation import command as generation
from serve_app.cli.generation.options import FROM_PROMPT, GenerateOptions
from serve_app.cli.migration.command import migrate_group
from serve_app.cli.registration.secrets import secrets_group
from serve_app.cli.registration.weights import weights_group
from serve_app.cli.serve import ports
from serve_app.cli.verification.command import verify_command
from serve_app.domain.errors import DarkroomError
from serve_app.settings import read_config, refuse_unknown
from serve_app.telemetry.version import PACKAGE


class _ErrorReportingGroup(click.Group):
    """Click group that prints Darkroom's own errors as one sentence and exits with status 1.

    Ctrl-C exits with status 130, as shells report it. Any other exception is a bug and keeps its
    traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DarkroomError as error:
            click.echo(f"darkroom: {in_lines(error.message)}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("\nStopped.", err=True)
            sys.exit(generation.INTERRUPTED)


@click.group(cls=_ErrorReportingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=PACKAGE, prog_name="darkroom")
def main() -> None:
    """Self-hosted inference for generative media, compatible with fal's API."""


@main.command("serve")
@options.data_dir("data_dir")
@options.config_file("config_path")
@click.option("--host", default=None, help="Address to listen on. Default: 127.0.0.1.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=None, help="HTTP port. Default: 8000."
)
@click.option(
    "--tls-port",
    type=click.IntRange(0, 65535),
    default=None,
    help=f"HTTPS port; 0 disables it. Default: --port plus {ports.TLS_PORT_OFFSET} (8443).",
)
@click.option(
    "--proxy-port",
    type=click.IntRange(0, 65535),
    default=None,
    help="Port of the proxy for fal's host names; 0 disables it. "
    f"Default: --port plus {ports.PROXY_PORT_OFFSET} (8128).",
)
@click.option("--demo", is_flag=True, help="Serve the demo models, even on a machine with a GPU.")
@click.option(
    "--sample", is_flag=True, help="Generate one sample image after the start and print its path."
)
@click.option(
    "--link/--no-link",
    default=None,
    help="Print a link that opens the page signed in; if other machines can reach it, also as a QR "
    "code. Default: on a terminal only, because the link has the key.",
)
def serve_command(
    data_dir: Path | None,
    config_path: Path | None,
    host: str | None,
    port: int | None,
    tls_port: int | None,
    proxy_port: int | None,
    *,
    demo: bool,
    sample: bool,
    link: bool | None,
) -> None:
    """Start Darkroom on this machine and serve until Ctrl-C."""
    # Ray reads its flags when it is imported, so no code before this point may import it.
    from serve_app.cli.serve.greeting import (  # noqa: PLC0415
        print_missing_weights,
        print_not_tuned,
        print_real_model,
        print_welcome,
    )
    from serve_app.cli.serve.server import ServeCommand  # noqa: PLC0415
    from serve_app.cli.serve.sign_in_link import link_lines, network_origin  # noqa: PLC0415
    from serve_app.settings.config_file import ConfigFile, read  # noqa: PLC0415

    refuse_unknown()
    file = ConfigFile({}, None, None) if config_path is None else read(config_path)
    settings: dict[str, Any] = {} if data_dir is None else {"data_dir": data_dir}
    settings |= {"demo": True} if demo else {}
    settings |= {} if tls_port is None else {"tls_port": tls_port}
    settings |= {} if proxy_port is None else {"proxy_port": proxy_port}
    config = read_config(file.arguments | settings)
    installation = Installation(config.server.data_dir)
    host = host or file.host or config.server.host
    port = port or file.port or config.server.port
    server = ServeCommand(installation, config, host, port, config_path)
    server.check()

    def after_start(server: ServeCommand) -> None:
        print_line, demo = server.console.print_line, config.models.serves_demo
        print_missing_weights(config, print_line)
        print_not_tuned(config, print_line)
        if server.console.is_terminal if link is None else link:
            network = network_origin(host, port, config.server.public_url)
            for line in link_lines(server.url, network, installation.key()):
                print_line(line)
        print_welcome(installation, server.url, print_line, sample=sample, demo=demo)
        print_real_model(config, print_line)  # last: it may wait for the hub

    server.run(settings, after_start=after_start)


@main.command("serve-config")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--installed-as",
    type=click.Path(path_type=Path),
    default=None,
    help="Path of the configuration on the nodes of the ingress. Default: its path here; with "
    f"--manifest {serve_config.MOUNTED_AS}.",
)
@click.option(
    "--manifest",
    is_flag=True,
    help="FILE is a Kubernetes manifest: update the serveConfigV2 of its RayService from the "
    "darkroom.yaml in its ConfigMap.",
)
def serve_config_command(file: Path, installed_as: Path | None, *, manifest: bool) -> None:
    """Print the configuration for `serve deploy`, with an application for each pool.

    Example: darkroom serve-config darkroom.yaml > serve.yaml && serve deploy serve.yaml
    """
    refuse_unknown()
    if manifest:
        serve_config.update_manifest(file, installed_as)
    else:
        click.echo(serve_config.serve_config(file, installed_as), nl=False)


@main.command("env")
@options.server
@click.option(
    "--mode",
    type=click.Choice(environment.MODES),
    default="proxy",
    show_default=True,
    help="proxy: send all of fal's host names through the proxy. hosts: redirect only fal's "
    "Python client. plain: set only the key.",
)
@click.option("--shell", type=click.Choice(environment.SHELLS), default="sh", show_default=True)
@options.as_json
def env_command(server: Server, mode: str, shell: str, *, as_json: bool) -> None:
    """Print variables that point fal's clients here.

    Example: eval "$(darkroom env)"
    """
    if as_json:
        click.echo(environment.as_json(server, mode))
    else:
        click.echo(environment.lines(server, mode, shell))
    if note := environment.node_note(environment.installed_node(), mode):
        click.echo(note, err=True)


@main.command("generate")
@options.server
@click.argument("prompt", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    default=None,
    help="File to write; - is standard output. Default: out.png, out.mp4 or out.wav, by the "
    "endpoint. If it exists, the new one gets a number.",
)
@click.option("--overwrite", is_flag=True, help="Replace --output if it exists.")
@click.option(
    "-m",
    "--model",
    default=None,
    shell_complete=completion.endpoints,
    help=f"Endpoint id. Default: {FROM_PROMPT}, or an endpoint that accepts your --image.",
)
@click.option("--seed", type=int, default=None)
@click.option("--steps", type=int, default=None)
@click.option(
    "--size", default=None, help="Image size, for example square, landscape_4_3 or 512x512."
)
@click.option("-n", "--count", type=int, default=None, help="Number of images.")
@click.option("--image", default=None, help="Input image: a file or a URL.")
@click.option("--mask", default=None, help="Mask for --image: white areas are repainted.")
@click.option("--strength", type=float, default=None, help="How much to change --image, 0 to 1.")
@click.option("--draft", type=int, default=None, help="Make so many drafts, with previews.")
@click.option(
    "--until", type=float, default=None, help="Share of the steps that --draft makes, 0.05 to 0.9."
)
@click.option(
    "--from-draft",
    metavar="ID",
    default=None,
    help="Finish a draft, with the PROMPT and options that are given and its own for the others.",
)
@click.option(
    "--new-noise",
    type=float,
    default=None,
    help="Share of the noise of --from-draft to replace, 0 to 1, for a variation.",
)
@click.option(
    "--field", "fields", multiple=True, help="Any other input field: NAME=JSON or NAME=@FILE."
)
@click.option(
    "--preview",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write a JPEG preview to this file and update it while the request runs.",
)
@click.option("--open", "show", is_flag=True, help="Open the result in a viewer.")
@options.as_json
def generate_command(
    server: Server,
    output: Path | None,
    preview: Path | None,
    *,
    overwrite: bool,
    as_json: bool,
    show: bool,
    **wish: Any,
) -> None:
    """Generate an image, a video or audio from PROMPT, or from standard input if it is -.

    The model, or else the suffix of --output, selects which. Ctrl-C cancels the request. Only
    --from-draft needs no PROMPT.
    """
    asked = GenerateOptions(**wish)
    generation.run(
        *(server, asked, output),
        preview=preview,
        overwrite=overwrite,
        as_json=as_json,
        show=show,
    )


@main.command("logs")
@options.server
@click.argument("request_id", shell_complete=completion.requests)
@click.option(
    "-f", "--follow", is_flag=True, help="Keep printing new lines until the request has ended."
)
@options.as_json
def logs_command(server: Server, request_id: str, *, follow: bool, as_json: bool) -> None:
    """Show a request's log."""
    requests.show(server, request_id, follow=follow, as_json=as_json)


@main.command("open")
@options.server
@click.argument("request_id", shell_complete=completion.requests)
@options.as_json
def open_command(server: Server, request_id: str, *, as_json: bool) -> None:
    """Open the files that a request produced and print their URLs."""
    requests.open_files(server, request_id, as_json=as_json)


@main.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script for SHELL.

    Example: eval "$(darkroom completion bash)"
    """
    click.echo(completion.script(main, shell))


main.add_command(login.login_command)
main.add_command(login.logout_command)
main.add_command(login.contexts_group)
main.add_command(backup.backup_command)
main.add_command(backup.restore_command)
main.add_command(backup.fsck_command)
main.add_command(storage_group)
main.add_command(inspect_file.inspect_command)
main.add_command(verify_command)
main.add_command(models_group)
main.add_command(weights_group)
main.add_command(secrets_group)
main.add_command(tune_command)
main.add_command(top_command)
main.add_command(warm_command)
main.add_command(watch_spot_command)
main.add_command(usage_group)
main.add_command(batch_group)
main.add_command(operations.queue_command)
main.add_command(audit_group)
main.add_command(shadows_command)
main.add_command(operations.endpoints_group)
main.add_command(webhooks.webhooks_group)
main.add_command(files_group)
main.add_command(keys_group)
main.add_command(tenants_group)
main.add_command(migrate_group)
main.add_command(deploy_command)
main.add_command(undeploy_command)


@main.command("status")
@options.server
@options.as_json
def status_command(server: Server, *, as_json: bool) -> None:
    """Show whether Darkroom is ready, and its pools and queue."""
    requests.status(server, as_json=as_json)


@main.command("doctor")
@options.server
@click.argument("part", type=click.Choice(["storage"]), required=False)
@options.as_json
def doctor_command(server: Server, part: str | None, *, as_json: bool) -> None:
    """Check this machine and installation, and report each problem.

    With --url or a saved context, check that Darkroom and the machine of its ingress. With
    `storage`, test every operation that Darkroom performs on the artifact storage. The exit status
    is the number of problems.
    """
    # The checks import the database driver and every storage, which other commands do not need.
    from serve_app.cli.doctor import checks, doctor  # noqa: PLC0415

    found = checks.storage_findings(here(server)) if part else doctor.findings(server)
    sys.exit(doctor.report(found, as_json=as_json))


@main.group("requests")
def requests_group() -> None:
    """List, show, cancel, requeue, fail and delete requests."""


@requests_group.command("list")
@options.server
@click.option("--state", "states", multiple=True, help="Show only this state. May be repeated.")
@click.option("--endpoint", "endpoint_id", help="Show only this endpoint's requests.")
@click.option(
    "--tenant", help="Tenant, or '*' for all tenants. Requires a key with the scope operator."
)
@click.option(
    "--since", type=click.DateTime(), help="Show requests submitted at this time or later."
)
@click.option("--until", type=click.DateTime(), help="Show requests submitted before this time.")
@click.option("--before", help="Show requests older than this request id (next page).")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@options.as_json
def requests_list(server: Server, *, as_json: bool, **wish: Any) -> None:
    """List the latest requests, newest first."""
    requests.requests(server, **wish, as_json=as_json)


@requests_group.command("show")
@options.server
@click.argument("request_id", shell_complete=completion.requests)
@options.as_json
def requests_show(server: Server, request_id: str, *, as_json: bool) -> None:
    """Show one request and its log."""
    requests.request(server, request_id, as_json=as_json)


@requests_group.command("cancel")
@options.server
@click.argument("request_id", shell_complete=completion.requests)
@options.as_json
def requests_cancel(server: Server, request_id: str, *, as_json: bool) -> None:
    """Cancel a queued or running request."""
    requests.cancel(server, request_id, as_json=as_json)


@requests_group.command("delete")
@options.server
@click.argument("request_id", shell_complete=completion.requests)
@options.as_json
def requests_delete(server: Server, request_id: str, *, as_json: bool) -> None:
    """Delete an ended request.

    This deletes its input, outcome, log and files.
    """
    requests.delete(server, request_id, as_json=as_json)


requests_group.add_command(operations.requeue_command)
requests_group.add_command(operations.fail_command)
requests_group.add_command(operations.priority_command)
