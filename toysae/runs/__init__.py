"""The engine: cells in, results on disk out; whatever was stopped goes on."""
