"""One thin file per command: it composes, prints and exits; the work is in the rooms."""
