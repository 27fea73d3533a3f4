"""All SQL of the application; `repo_factory.create_session()` is the only door to the database."""
