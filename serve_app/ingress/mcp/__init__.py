"""Model Context Protocol on top of ``submission``. Assistants use it to call tools."""
