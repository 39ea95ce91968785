"""``darkroom serve``: its options, and what is printed after the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.installation import Installation
from serve_app.cli.serve import ports
from serve_app.settings import read_config, refuse_unknown


@click.command("serve")
@options.data_dir("data_dir")
@options.config_file("config_path")
@click.option(
    "--host", metavar="HOST", default=None, help="Address to listen on. Default: 127.0.0.1."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    default=None,
    help="HTTP port. Default: 8000.",
)
@click.option(
    "--tls-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    default=None,
    help=f"HTTPS port; 0 disables it. Default: --port plus {ports.TLS_PORT_OFFSET} (8443).",
)
@click.option(
    "--proxy-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
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
    from serve_app.cli.serve.greeting import print_welcome  # noqa: PLC0415
    from serve_app.cli.serve.notices import (  # noqa: PLC0415
        print_missing_weights,
        print_not_tuned,
        print_real_model,
    )
    from serve_app.cli.serve.server import ServeCommand  # noqa: PLC0415
    from serve_app.cli.serve.sign_in_link import network_origin, print_links  # noqa: PLC0415
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
            print_links(installation, server.url, network, print_line)
        # In a log file, each step of the progress would be a line.
        screen = server.console.stream if server.console.is_terminal else None
        print_welcome(installation, server.url, print_line, sample=sample, demo=demo, screen=screen)
        print_real_model(config, print_line)  # last: it may wait for the hub

    server.run(settings, after_start=after_start)
