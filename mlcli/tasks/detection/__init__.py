"""Objects in pictures: where each one is, as a box, and what it is."""
