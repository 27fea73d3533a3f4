"""What is asked in the background, each question in a thread of its own: never in a scrape, never in the intake."""
