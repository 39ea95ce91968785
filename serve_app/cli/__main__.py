"""``python -m serve_app.cli`` is ``darkroom``, where the command is not on the path."""

from serve_app.cli.main import main

main(prog_name="darkroom")
