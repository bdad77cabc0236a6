"""Readers of data sets: each makes a Source, which holds splits of samples and the facts about them."""
