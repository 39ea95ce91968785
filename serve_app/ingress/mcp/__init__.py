"""The Model Context Protocol, by which assistants call tools, onto ``submission``."""
