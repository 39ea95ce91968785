"""Built-in executors by the name that endpoints use as their ``family``. Importing this module
imports none of them."""

from serve_app.domain.executors.hosted import PROVIDERS

PYTHON = "python"
COG = "cog"
COMFYUI = "comfyui"
HOSTED = "deployments.executors.hosted.executor:HostedExecutor"

EXECUTORS: dict[str, str] = {
    PYTHON: "deployments.executors.python_app:PythonAppExecutor",
    COG: "deployments.executors.cog.executor:CogExecutor",
    COMFYUI: "deployments.executors.comfyui.executor:ComfyUiExecutor",
    **dict.fromkeys(PROVIDERS, HOSTED),
}
"""Name → class. A pool hosts either executors or families of the engine."""
