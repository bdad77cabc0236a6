"""One room per task: what is learned, and how it is judged."""
