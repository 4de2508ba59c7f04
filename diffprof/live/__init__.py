"""A pipeline in a server, watched: stage times of requests, and one recording of a slow one."""
