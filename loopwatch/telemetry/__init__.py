"""What is measured, and how the numbers leave the process."""
