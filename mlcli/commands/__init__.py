"""The commands, one thin file each: it composes, prints and exits; the other packages do the work."""
