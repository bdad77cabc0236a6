"""Reports on runs: scores, verdict, advice, closing screen and page."""
