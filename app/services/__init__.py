"""What the tasks and the API do, apart from how they are called."""
