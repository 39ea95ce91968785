"""Apps that come with Darkroom: ``darkroom deploy upscaler``, ``whisper`` or ``speaker``.

Each module is a whole app: a file that imports ``darkroom`` and, in ``setup``, torch and
transformers. ``settings.json`` beside it names other weights.
"""
