"""Every pipeline class of diffusers that can be made tiny here, through the engine."""
