"""Classification: one label out of several."""
