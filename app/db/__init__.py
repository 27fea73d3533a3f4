"""The database: one engine for every loop, the models, and the command that makes the tables."""
