"""ComfyUI's protocol in front of the queue, as a translation to ``submission``."""
