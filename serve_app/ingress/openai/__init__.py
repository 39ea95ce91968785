"""OpenAI's protocol for images, videos and models, as a translation to ``submission``."""
