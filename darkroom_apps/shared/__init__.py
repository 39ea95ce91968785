"""Code that several apps share. A bundle of an app has the modules that the app imports."""
