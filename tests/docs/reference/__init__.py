"""Programs that write the reference pages that follow from the code."""
