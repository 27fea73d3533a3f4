"""The HTTP interface, on aiohttp."""
