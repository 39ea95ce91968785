"""OpenAI's protocol for pictures, clips and models, as a translation onto ``submission``."""
