"""One module a benchmark; each offers `run(profile, data) -> Report`."""
