"""Annotations as people have them: read from four formats, judged, divided into splits, and written again."""
