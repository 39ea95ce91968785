"""Apps that come with Darkroom: ``darkroom deploy upscaler`` and the names of the other modules.

Each module is a whole app: a file that imports ``darkroom``, what it shares with others from
``darkroom_apps.shared``, and in ``setup`` torch and transformers. ``settings.json`` beside it names
other weights.
"""
