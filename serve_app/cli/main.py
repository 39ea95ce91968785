"""The command ``darkroom``. Each command is a few lines over a module of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from serve_app.cli import (
    completion,
    doctor,
    environment,
    generate,
    keys,
    listing,
    migrate,
    operations,
    options,
    request_log,
    storage_doctor,
    way_in,
    webhooks,
    weights_notice,
)
from serve_app.cli.installation import Installation
from serve_app.cli.models_group import models_group
from serve_app.cli.wish import FROM_PROMPT, Wish
from serve_app.domain.errors import DarkroomError
from serve_app.settings import read_config, refuse_unknown


class _Sentences(click.Group):
    """Shows Darkroom's own errors as a sentence; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DarkroomError as error:
            click.echo(f"darkroom: {error.message}", err=True)
            sys.exit(1)


@click.group(cls=_Sentences, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="darkroom-serve", prog_name="darkroom")
def main() -> None:
    """A self-hosted cluster for generative media that speaks fal's protocol."""


@main.command("serve")
@options.data_dir("data_dir")
@options.config_file("config_path")
@click.option("--host", default=None, help="Address to listen on. Default: 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Default: 8000.")
@click.option(
    "--tls-port",
    type=click.IntRange(0, 65535),
    default=None,
    help=f"For HTTPS; 0: none. Default: --port and {way_in.TLS_ABOVE}, so 8443.",
)
@click.option(
    "--proxy-port",
    type=click.IntRange(0, 65535),
    default=None,
    help=f"The proxy for fal's names; 0: none. Default: --port and {way_in.PROXY_ABOVE}, so 8128.",
)
@click.option("--demo", is_flag=True, help="Serve the demo models, also on a machine with a GPU.")
@click.option(
    "--sample", is_flag=True, help="Make one picture once it answers, and say where it is."
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
) -> None:
    """Start everything on this machine and serve until Ctrl-C."""
    # Ray reads its flags when it is imported, so nothing on this path may import it early.
    from serve_app.cli.config_file import ConfigFile, read  # noqa: PLC0415
    from serve_app.cli.sample import greet  # noqa: PLC0415
    from serve_app.cli.serve import Server  # noqa: PLC0415

    refuse_unknown()
    file = ConfigFile({}, None, None) if config_path is None else read(config_path)
    settings = dict(file.arguments)
    settings |= {} if data_dir is None else {"data_dir": data_dir}
    settings |= {"demo": True} if demo else {}
    settings |= {} if tls_port is None else {"tls_port": tls_port}
    settings |= {} if proxy_port is None else {"proxy_port": proxy_port}
    config = read_config(settings)
    installation = Installation(config.data_dir)
    server = Server(
        installation, config, host or file.host or config.host, port or file.port or config.port
    )
    server.check()

    def after_start(server: Server) -> None:
        weights_notice.say(config, server.console.say)
        say, demo = server.console.say, config.serves_demo
        greet(installation, server.url, say, sample=sample, demo=demo)

    server.run(settings, after_start=after_start)


@main.command("env")
@options.installation
@click.option(
    "--mode",
    type=click.Choice(environment.MODES),
    default="proxy",
    show_default=True,
    help="All of fal's names by a proxy, fal's Python client by host names, or the key alone.",
)
@click.option("--shell", type=click.Choice(environment.SHELLS), default="sh", show_default=True)
@options.as_json
def env_command(installation: Installation, mode: str, shell: str, *, as_json: bool) -> None:
    """Print what points fal's clients at this Darkroom: eval "$(darkroom env)"."""
    if as_json:
        click.echo(environment.as_json(installation, mode))
    else:
        click.echo(environment.lines(installation, mode, shell))


@main.command("generate")
@options.installation
@click.argument("prompt")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default="out.png")
@click.option(
    "-m",
    "--model",
    default=None,
    shell_complete=completion.endpoints,
    help=f"An endpoint's id. Default: {FROM_PROMPT}, or one that takes your --image.",
)
@click.option("--seed", type=int, default=None)
@click.option("--steps", type=int, default=None)
@click.option("--size", default=None, help="Such as square, landscape_4_3, or 512x512.")
@click.option("-n", "--count", type=int, default=None, help="How many pictures.")
@click.option("--image", default=None, help="A picture to start from: a file or a URL.")
@click.option("--mask", default=None, help="What to paint anew in --image: white where.")
@click.option("--strength", type=float, default=None, help="How far to leave --image, 0 to 1.")
@click.option(
    "--field", "fields", multiple=True, help="Any other input field: NAME=JSON, or NAME=@FILE."
)
@click.option(
    "--preview",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="A JPEG that shows what is being made, written anew while it is.",
)
@click.option("--open", "show", is_flag=True, help="Open what was made in a viewer.")
@options.as_json
def generate_command(
    installation: Installation,
    output: Path,
    preview: Path | None,
    *,
    as_json: bool,
    show: bool,
    **wish: Any,
) -> None:
    """Make a picture from PROMPT."""
    asked = Wish(**wish)
    generate.run(installation, asked, output, preview=preview, as_json=as_json, show=show)


@main.command("logs")
@options.installation
@click.argument("request_id", shell_complete=completion.requests)
@click.option("-f", "--follow", is_flag=True, help="Go on until the request has ended.")
@options.as_json
def logs_command(
    installation: Installation, request_id: str, *, follow: bool, as_json: bool
) -> None:
    """Show a request's log."""
    request_log.show(installation, request_id, follow=follow, as_json=as_json)


@main.command("open")
@options.installation
@click.argument("request_id", shell_complete=completion.requests)
@options.as_json
def open_command(installation: Installation, request_id: str, *, as_json: bool) -> None:
    """Open what a request made, and print its URLs."""
    request_log.open_files(installation, request_id, as_json=as_json)


@main.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print what makes SHELL complete this command: eval "$(darkroom completion bash)"."""
    click.echo(completion.script(main, shell))


main.add_command(models_group)
main.add_command(operations.queue_command)
main.add_command(operations.audit_command)
main.add_command(operations.endpoints_group)
main.add_command(webhooks.webhooks_group)
main.add_command(migrate.migrate_group)


@main.command("status")
@options.installation
@options.as_json
def status_command(installation: Installation, *, as_json: bool) -> None:
    """Show whether Darkroom is ready, its pools and its queue."""
    listing.status(installation, as_json=as_json)


@main.command("doctor")
@options.installation
@click.argument("part", type=click.Choice(["storage"]), required=False)
@options.as_json
def doctor_command(installation: Installation, part: str | None, *, as_json: bool) -> None:
    """Say what is wrong with this machine or installation, in sentences.

    With `storage`, try all that Darkroom does with the storage of the artifacts.
    """
    findings = storage_doctor.findings if part else doctor.findings
    sys.exit(doctor.report(findings(installation), as_json=as_json))


@main.group("requests")
def requests_group() -> None:
    """Look at requests, cancel and delete them."""


@requests_group.command("list")
@options.installation
@click.option("--state", "states", multiple=True, help="Only these states; may be repeated.")
@click.option("--endpoint", "endpoint_id", help="Only this endpoint's.")
@click.option("--tenant", help="Another's, or '*' for all: takes a key with the scope admin.")
@click.option("--since", type=click.DateTime(), help="Submitted then or later.")
@click.option("--until", type=click.DateTime(), help="Submitted before then.")
@click.option("--before", help="Older than the request with this id: the next page.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@options.as_json
def requests_list(installation: Installation, *, as_json: bool, **wish: Any) -> None:
    """List the latest requests, newest first."""
    listing.requests(installation, **wish, as_json=as_json)


@requests_group.command("show")
@options.installation
@click.argument("request_id", shell_complete=completion.requests)
@options.as_json
def requests_show(installation: Installation, request_id: str, *, as_json: bool) -> None:
    """Show one request with its log."""
    listing.request(installation, request_id, as_json=as_json)


@requests_group.command("cancel")
@options.installation
@click.argument("request_id", shell_complete=completion.requests)
@options.as_json
def requests_cancel(installation: Installation, request_id: str, *, as_json: bool) -> None:
    """Cancel a queued or running request."""
    listing.cancel(installation, request_id, as_json=as_json)


@requests_group.command("delete")
@options.installation
@click.argument("request_id", shell_complete=completion.requests)
@options.as_json
def requests_delete(installation: Installation, request_id: str, *, as_json: bool) -> None:
    """Delete an ended request with its input, outcome, log and files."""
    listing.delete(installation, request_id, as_json=as_json)


requests_group.add_command(operations.requeue_command)
requests_group.add_command(operations.fail_command)


@main.group("keys")
def keys_group() -> None:
    """Make, list and revoke API keys."""


@keys_group.command("list")
@options.installation
@click.option("--tenant", default=None, help="Default: that of the first key.")
@options.as_json
def keys_list(installation: Installation, tenant: str | None, *, as_json: bool) -> None:
    """List a tenant's keys; their secrets are nowhere."""
    keys.listed(installation, tenant, as_json=as_json)


@keys_group.command("create")
@options.installation
@click.argument("name", default="")
@click.option("--tenant", default=None, help="Whose it is; made if it is new.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["api", "priority", "admin"]),
    multiple=True,
    default=("api",),
    show_default=True,
    help="May be repeated.",
)
@click.option("--days", type=click.FloatRange(min=0, min_open=True), default=None, help="It lasts.")
@click.option(
    "--replay-undelivered",
    is_flag=True,
    help="When the answer to a submit is lost, the client's next try gets it: billed once.",
)
@options.as_json
def keys_create(installation: Installation, *, as_json: bool, **wish: Any) -> None:
    """Make a key called NAME and print it, this once."""
    keys.create(installation, **wish, as_json=as_json)


@keys_group.command("revoke")
@options.installation
@click.argument("key_id")
@options.as_json
def keys_revoke(installation: Installation, key_id: str, *, as_json: bool) -> None:
    """End a key for good."""
    keys.revoke(installation, key_id, as_json=as_json)
