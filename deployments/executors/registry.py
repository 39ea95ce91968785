"""Built-in executors by the name that endpoints use as their ``family``. Importing this module
imports none of them."""

PYTHON = "python"

EXECUTORS: dict[str, str] = {PYTHON: "deployments.executors.python_app:PythonAppExecutor"}
"""Name → class. A pool hosts either executors or families of the engine."""
