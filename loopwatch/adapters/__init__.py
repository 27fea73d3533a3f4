"""One module a client library; each is imported only when a name of it is used."""
